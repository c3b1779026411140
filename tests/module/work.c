// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Work in the kernel that notices when its data, its registers or its translations change under it.
 *
 * Owns one thread for each CPU of the machine, wherever the scheduler runs it. A round fills memory that was mapped for it with
 * numbers, sums them up twice on different ways, and unmaps it: that is a broadcast TLB invalidation for each round.
 */

#include <linux/atomic.h>
#include <linux/err.h>
#include <linux/kthread.h>
#include <linux/mutex.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

#include "calls.h"

#define WORDS (64 * 1024 / sizeof(u64))

static DEFINE_MUTEX(lock);
static struct task_struct **threads;
static atomic64_t rounds, wrong;

/* The next of a sequence of numbers that does not repeat soon (Knuth's multiplier). */
static u64 step(u64 value)
{
	return value * 6364136223846793005ULL + 1442695040888963407ULL;
}

static int work(void *seed)
{
	u64 value = (u64)(uintptr_t)seed;

	while (!kthread_should_stop()) {
		u64 *memory = vmalloc(WORDS * sizeof(u64));
		u64 first = value, sum = 0, again = 0;
		size_t i;

		if (!memory) {
			schedule_timeout_interruptible(1);
			continue;
		}
		for (i = 0; i < WORDS; i++) {
			value = step(value);
			memory[i] = value;
			sum = sum * 31 + value;
		}
		cond_resched();
		for (i = 0; i < WORDS; i++) {
			first = step(first);
			if (READ_ONCE(memory[i]) != first)
				atomic64_inc(&wrong);
			again = again * 31 + first;
		}
		if (sum != again)
			atomic64_inc(&wrong);
		vfree(memory);
		atomic64_inc(&rounds);
		cond_resched();
	}
	return 0;
}

static void stop(void)
{
	unsigned int i;

	if (!threads)
		return;
	for (i = 0; threads[i]; i++)
		kthread_stop(threads[i]);
	kfree(threads);
	threads = NULL;
}

static int start(void)
{
	unsigned int i;

	if (threads)
		return -EBUSY;
	threads = kcalloc(num_possible_cpus() + 1, sizeof(*threads), GFP_KERNEL);
	if (!threads)
		return -ENOMEM;
	for (i = 0; i < num_possible_cpus(); i++) {
		struct task_struct *thread = kthread_run(work, (void *)(uintptr_t)(i + 1), "exeunt-work/%u", i);

		if (IS_ERR(thread)) {
			stop();
			return PTR_ERR(thread);
		}
		/* Beside what else there is to do, not before it. */
		set_user_nice(thread, 10);
		threads[i] = thread;
	}
	return 0;
}

int command_work(struct answer *answer, char *words)
{
	int error = 0;

	mutex_lock(&lock);
	if (!strcmp(words, "start"))
		error = start();
	else if (!strcmp(words, "stop"))
		stop();
	else if (strcmp(words, "show"))
		error = -EINVAL;
	mutex_unlock(&lock);
	if (!error)
		say(answer, "ok rounds %lld wrong %lld\n", atomic64_read(&rounds), atomic64_read(&wrong));
	return error;
}

void work_end(void)
{
	mutex_lock(&lock);
	stop();
	mutex_unlock(&lock);
}
