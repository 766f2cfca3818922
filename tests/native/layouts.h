/* SPDX-License-Identifier: MIT-0 */
/*
 * layouts.h - the layouts of structures that Python has as well.
 */
#ifndef GW_TEST_LAYOUTS_H
#define GW_TEST_LAYOUTS_H

#include <stddef.h>

/* Of a structure, or of a field in it: "structure.field". */
struct extent {
	const char *name;
	size_t offset;
	size_t size;
};

/* The i-th of all; NULL from their number on. */
const struct extent *layout(unsigned i);

#endif
