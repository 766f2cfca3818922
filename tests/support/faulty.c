/* SPDX-License-Identifier: MIT-0 */
/*
 * faulty.c - a kernel that refuses, and a system clock that somebody sets, for one process: to be loaded before all others
 * (ld.so(8), LD_PRELOAD).  The file that $GWLBTUN_FAULTS names says what is wrong at the moment (struct faults).
 *
 * With a clock that is set, threads wait for locks as in Python before 3.11: until that clock shows the end of their time.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <semaphore.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define TUNSETIFF 0x400454CA
#define BILLION 1000000000ll
#define DESCRIPTORS 65536

struct faults {
	int32_t write;    /* the errno of all writes to TUN devices; 0: none */
	int32_t send;     /* of all sendmmsg() */
	int64_t clock_ns; /* how much the system's clock is ahead */
	int64_t set;      /* not 0: waits are as in Python before 3.11 */
	int64_t slept_ns; /* for how long the host has been suspended */
};

static struct faults none;
static volatile struct faults *faults = &none;
static char is_tun[DESCRIPTORS];

__attribute__((constructor)) static void begin(void)
{
	const char *path = getenv("GWLBTUN_FAULTS");
	int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;

	if (fd < 0)
		return;
	faults = mmap(NULL, sizeof(*faults), PROT_READ, MAP_SHARED, fd, 0);
	if (faults == MAP_FAILED)
		abort();
	close(fd);
}

int ioctl(int fd, unsigned long request, ...)
{
	va_list list;
	void *argument;
	int result;

	va_start(list, request);
	argument = va_arg(list, void *);
	va_end(list);
	result = (int)syscall(SYS_ioctl, fd, request, argument);
	if (result == 0 && (uint32_t)request == TUNSETIFF && fd < DESCRIPTORS)
		is_tun[fd] = 1;
	return result;
}

int close(int fd)
{
	if (fd >= 0 && fd < DESCRIPTORS)
		is_tun[fd] = 0;
	return (int)syscall(SYS_close, fd);
}

ssize_t write(int fd, const void *data, size_t size)
{
	if (faults->write && fd >= 0 && fd < DESCRIPTORS && is_tun[fd]) {
		errno = faults->write;
		return -1;
	}
	return syscall(SYS_write, fd, data, size);
}

int sendmmsg(int fd, struct mmsghdr *messages, unsigned count, int flags)
{
	if (faults->send) {
		errno = faults->send;
		return -1;
	}
	return (int)syscall(SYS_sendmmsg, fd, messages, count, flags);
}

int clock_gettime(clockid_t clock, struct timespec *time)
{
	int result = (int)syscall(SYS_clock_gettime, clock, time);

	if ((clock == CLOCK_REALTIME || clock == CLOCK_BOOTTIME) && result == 0) {
		int64_t ahead = clock == CLOCK_REALTIME ? faults->clock_ns : 0;
		int64_t ns = time->tv_sec * BILLION + time->tv_nsec + faults->slept_ns + ahead;

		*time = (struct timespec){ ns / BILLION, ns % BILLION };
	}
	return result;
}

static int64_t now(clockid_t clock)
{
	struct timespec time;

	clock_gettime(clock, &time);
	return time.tv_sec * BILLION + time.tv_nsec;
}

typedef int (*clockwait)(sem_t *, clockid_t, const struct timespec *);

static clockwait genuine_clockwait(void)
{
	static clockwait genuine;

	if (!genuine)
		*(void **)&genuine = dlsym(RTLD_NEXT, "sem_clockwait");
	return genuine;
}

/* Sleeps all the while, as a thread is stuck that does. */
static int wait_by_system_clock(sem_t *semaphore, int64_t end)
{
	int64_t left;

	while ((left = end - now(CLOCK_REALTIME)) > 0) {
		int64_t until = now(CLOCK_MONOTONIC) + left;
		struct timespec time = { until / BILLION, until % BILLION };

		if (genuine_clockwait()(semaphore, CLOCK_MONOTONIC, &time) == 0)
			return 0;
		if (errno != ETIMEDOUT)
			return -1;
	}
	if (sem_trywait(semaphore) == 0)
		return 0;
	errno = ETIMEDOUT;
	return -1;
}

int sem_clockwait(sem_t *semaphore, clockid_t clock, const struct timespec *end)
{
	if (faults->set)
		return wait_by_system_clock(semaphore, end->tv_sec * BILLION + end->tv_nsec - now(clock) + now(CLOCK_REALTIME));
	return genuine_clockwait()(semaphore, clock, end);
}

int sem_timedwait(sem_t *semaphore, const struct timespec *end)
{
	return wait_by_system_clock(semaphore, end->tv_sec * BILLION + end->tv_nsec);
}
