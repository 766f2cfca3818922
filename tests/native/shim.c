/* SPDX-License-Identifier: MIT-0 */
/*
 * shim.c - loads a shim as Python does, and prints what it says of itself: layouts, counters, and that it makes a handler.
 *
 * For a shim that was built for another processor, whose Python is not here: what is printed must be what this one's prints.
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../../native/gwlbtun.h"

/* POSIX promises that the address of a function fits; ISO C does not let it be converted. */
static void find(void *shim, const char *name, void *function)
{
	void *found = dlsym(shim, name);

	if (!found) {
		fprintf(stderr, "shim: %s\n", dlerror());
		exit(1);
	}
	memcpy(function, &found, sizeof(found));
}

#define FIND(shim, name) find(shim, #name, &name##_)

int main(int argc, char **argv)
{
	void *shim = argc > 1 ? dlopen(argv[1], RTLD_NOW) : NULL;
	const char *(*gw_build_id_)(void), *(*gw_layout_)(unsigned, unsigned *);
	const char *(*gw_counter_name_)(unsigned), *name;
	struct gw_handler *(*gw_handler_new_)(unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned,
	                                      int, int);
	void (*gw_handler_free_)(struct gw_handler *);
	struct gw_handler *handler;
	unsigned value;

	if (!shim) {
		fprintf(stderr, "shim: %s\n", argc > 1 ? dlerror() : "name one");
		return 1;
	}
	FIND(shim, gw_build_id);
	FIND(shim, gw_layout);
	FIND(shim, gw_counter_name);
	FIND(shim, gw_handler_new);
	FIND(shim, gw_handler_free);
	printf("%s\n", gw_build_id_());
	for (unsigned i = 0; (name = gw_layout_(i, &value)); i++)
		printf("%s %u\n", name, value);
	for (unsigned i = 0; (name = gw_counter_name_(i)); i++)
		printf("%s\n", name);
	handler = gw_handler_new_(2, 2, 16, 4096, 350, 120, 0, -1, -1);
	if (!handler) {
		perror("shim: no handler");
		return 1;
	}
	gw_handler_free_(handler);
	return 0;
}
