/* SPDX-License-Identifier: MIT-0 */
/* failure.h - how a program of the bench ends when it cannot go on. */
#ifndef BENCH_FAILURE_H
#define BENCH_FAILURE_H

/* The system refused something; errno says why. */
_Noreturn void fail(const char *what);

/* The caller asked for something that makes no sense. */
_Noreturn void usage(const char *what);

#endif
