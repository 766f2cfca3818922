/* SPDX-License-Identifier: MIT-0 */
/*
 * layout.h - what the Python side mirrors of our headers (gwlbtun/layout.py), as the compiler sees it.
 */
#ifndef GW_LAYOUT_H
#define GW_LAYOUT_H

#include "gwlbtun.h"

/* The name of the index-th constant, size or offset, and its value in *value; NULL past the last. */
GW_EXPORT const char *gw_layout(unsigned index, unsigned *value);

#endif
