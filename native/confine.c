/* SPDX-License-Identifier: MIT-0 */
/*
 * confine.c - what threads of the packet path may not do; confine.h tells how.
 */
#include "confine.h"

#include <errno.h>
#include <linux/audit.h>
#include <linux/capability.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

/* A sanitizer reads files of /proc to say what it has found. */
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define NO_FILTER
#endif

#if defined(__x86_64__)
#define THIS_ARCHITECTURE AUDIT_ARCH_X86_64
#define RESULT_REGISTER gregs[REG_RAX]
typedef greg_t register_value;
#elif defined(__aarch64__)
#define THIS_ARCHITECTURE AUDIT_ARCH_AARCH64
#define RESULT_REGISTER regs[0]
typedef unsigned long long register_value;
#endif

#ifndef SECCOMP_FILTER_FLAG_SPEC_ALLOW
#define SECCOMP_FILTER_FLAG_SPEC_ALLOW (1UL << 2)
#endif
#ifndef SYS_SECCOMP
#define SYS_SECCOMP 1
#endif

/* From this number on, system calls are the same on all architectures, and newer than Linux 5.0. */
#define FIRST_NEW 424
/* There are fewer calls. */
#define CALLS 1024

/* How often each call has been refused since it was last told; the last is for numbers that are none. */
static _Atomic uint32_t refused[CALLS + 1];

/* capget() and capset() speak of 64 capabilities as two halves. */
#define HALVES _LINUX_CAPABILITY_U32S_3

static int set_capabilities(uint64_t mask, bool for_good)
{
	struct __user_cap_header_struct header = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct data[HALVES];

	if (syscall(SYS_capget, &header, data) < 0)
		return -errno;
	for (unsigned i = 0; i < HALVES; i++) {
		data[i].effective = data[i].permitted & (uint32_t)(mask >> 32 * i);
		if (for_good)
			data[i].permitted = data[i].effective;
	}
	return syscall(SYS_capset, &header, data) < 0 ? -errno : 0;
}

int gw_use_capabilities(uint64_t mask)
{
	return set_capabilities(mask, false);
}

#if defined(THIS_ARCHITECTURE) && !defined(NO_FILTER)
/* The calls of the packet path, the most frequent first, as kernels before 5.11 look through the list each time; then what the C library and Python need for a thread's memory, locks, signals and end. */
static const int allowed[] = {
	__NR_recvmmsg,
	__NR_write,
	__NR_read,
	__NR_sendmmsg,
#ifdef __NR_poll
	__NR_poll,
#endif
	__NR_ppoll,
	__NR_sendmsg,
	__NR_recvmsg,
	__NR_readv,
	__NR_writev,
	__NR_socket,
	__NR_bind,
	__NR_connect,
	__NR_setsockopt,
	__NR_getsockopt,
	__NR_close,
	__NR_futex,
	__NR_clock_gettime,
	__NR_clock_nanosleep,
	__NR_nanosleep,
	__NR_sched_yield,
	__NR_sched_getscheduler,
	__NR_sched_setscheduler,
	__NR_sched_setaffinity,
	__NR_sched_getaffinity,
	__NR_getcpu,
	__NR_gettid,
	__NR_getpid,
	__NR_getrandom,
	__NR_mmap,
	__NR_munmap,
	__NR_mremap,
	__NR_mprotect,
	__NR_madvise,
	__NR_brk,
	__NR_membarrier,
	__NR_prctl,
	__NR_rt_sigaction,
	__NR_rt_sigprocmask,
	__NR_rt_sigreturn,
	__NR_sigaltstack,
	__NR_restart_syscall,
	__NR_tgkill,
	__NR_set_robust_list,
#ifdef __NR_rseq
	__NR_rseq,
#endif
	__NR_exit,
	__NR_exit_group,
};

#define ALLOWED (sizeof(allowed) / sizeof(*allowed))

/* The handler of SIGSYS: the call has not been made.  A C library takes ENOSYS for an older kernel, and makes an older call. */
static void refuse(int number, siginfo_t *info, void *context)
{
	ucontext_t *interrupted = context;
	unsigned call = (unsigned)info->si_syscall;

	(void)number;
	if (info->si_code != SYS_SECCOMP)
		return;
	if (call >= CALLS || info->si_arch != THIS_ARCHITECTURE)
		call = CALLS;
	atomic_fetch_add_explicit(&refused[call], 1, memory_order_relaxed);
	interrupted->uc_mcontext.RESULT_REGISTER = (register_value)(call >= FIRST_NEW ? -ENOSYS : -EPERM);
}

static int filter_calls(void)
{
	struct sigaction action = { .sa_sigaction = refuse, .sa_flags = SA_SIGINFO | SA_RESTART };
	struct sock_filter filter[ALLOWED + 6];
	struct sock_fprog program = { .filter = filter };
	unsigned short n = 0;

	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch));
	filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, THIS_ARCHITECTURE, 1, 0);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr));
	for (unsigned i = 0; i < ALLOWED; i++)
		filter[n++] = (struct sock_filter)BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)allowed[i],
		                                           (unsigned char)(ALLOWED - i), 0);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_TRAP);
	filter[n++] = (struct sock_filter)BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	program.len = n;
	if (sigaction(SIGSYS, &action, NULL) < 0)
		return -1;
	/* Before Linux 5.16, a filter costs its thread the processor's speculation as well, unless it says otherwise.  That is
	 * for threads that run untrusted programs. */
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_SPEC_ALLOW, &program);
}
#else
static int filter_calls(void)
{
	errno = ENOSYS;
	return -1;
}
#endif

int gw_confine(uint64_t mask, int calls)
{
	int done = 0;

	if (set_capabilities(mask, true) == 0)
		done |= GW_CONFINED_CAPABILITIES;
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return done;
	done |= GW_CONFINED_PRIVILEGES;
	if (calls && filter_calls() == 0)
		done |= GW_CONFINED_CALLS;
	return done;
}

int gw_refused_call(uint32_t *times)
{
	for (int call = 0; call <= CALLS; call++) {
		if (atomic_load_explicit(&refused[call], memory_order_relaxed) == 0)
			continue;
		*times = atomic_exchange_explicit(&refused[call], 0, memory_order_relaxed);
		return call;
	}
	return -1;
}
