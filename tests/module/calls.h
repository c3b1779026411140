/* SPDX-License-Identifier: MIT OR Apache-2.0 */
/*
 * What the files of the test module share: the way to EL2, and the answer that a command writes.
 */
#ifndef EXEUNT_CALLS_H
#define EXEUNT_CALLS_H

#include <linux/types.h>

/* Room for the text of an answer; what does not fit is cut off. */
#define ANSWER_SIZE (64 * 1024)

/* The text that a command answers with. */
struct answer {
	size_t length;
	char text[ANSWER_SIZE];
};

__printf(2, 3) void say(struct answer *answer, const char *format, ...);

/* x0 to x3 of a call, before and after. */
struct registers {
	u64 x[4];
};

/* Issues `hvc #0` on this CPU. The caller sees to it that it stays on it. */
void call_here(struct registers *registers);

/* Issues it on CPU `cpu`, interrupts masked. */
int call_on(int cpu, struct registers *registers);

/* Whether an HVC from here goes to somebody: the kernel runs at EL1, and whoever loaded the module said that there is an EL2. */
bool calls_possible(void);

/* calls.c: each carries out the command of its name with the words behind it. */
int command_call(struct answer *answer, char *words);
int command_status(struct answer *answer, char *words);
int command_policy(struct answer *answer, char *words);
int command_leave(struct answer *answer, char *words);
int command_leave_at_restart(struct answer *answer, char *words);
int command_lock(struct answer *answer, char *words);
int command_reenter(struct answer *answer, char *words);
int command_log(struct answer *answer, char *words);

/* Finds out who answers, and where a CPU can come back. */
void calls_begin(void);

/* work.c */
int command_work(struct answer *answer, char *words);
void work_end(void);

/* fill.c */
int command_fill(struct answer *answer, char *words);

/* crash.c */
int command_crash(struct answer *answer, char *words);

/* A way to die that is not in crash.c; gives a code if the kernel lives on. */
long exeunt_test_yours(void *unused);

#endif
