/* SPDX-License-Identifier: MIT-0 */
/* layout.h - what gwlbtun/layout.py mirrors of these headers, as the compiler sees it. */
#ifndef GW_LAYOUT_H
#define GW_LAYOUT_H

#include "gwlbtun.h"

/* The name of the index-th constant, size or offset, and its value in *value; NULL past the last. */
GW_EXPORT const char *gw_layout(unsigned index, unsigned *value);

#endif
