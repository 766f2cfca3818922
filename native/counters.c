/* SPDX-License-Identifier: MIT-0 */
/*
 * counters.c - the names of counters, and what they say to a person.
 */
#include "counters.h"

#include <stddef.h>

const char *gw_counter_name(unsigned counter)
{
	static const char *const names[] = {
#define COUNTER_NAME(name, text) #name,
		GW_COUNTER_LIST(COUNTER_NAME)
#undef COUNTER_NAME
	};

	return counter < GW_COUNTERS ? names[counter] : NULL;
}

const char *gw_counter_text(unsigned counter)
{
	static const char *const texts[] = {
#define COUNTER_TEXT(name, text) text,
		GW_COUNTER_LIST(COUNTER_TEXT)
#undef COUNTER_TEXT
	};

	return counter < GW_COUNTERS ? texts[counter] : NULL;
}
