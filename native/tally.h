/* SPDX-License-Identifier: MIT-0 */
/*
 * tally.h - what the programs in the kernel have counted, added up over the CPUs.
 */
#ifndef GW_TALLY_H
#define GW_TALLY_H

#include "gwlbtun.h"

#endif
