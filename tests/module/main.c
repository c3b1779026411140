// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * exeunt_test: Exeunt's calls from within a real Linux, work that notices when its data changes, and ways to crash.
 *
 * Owns /proc/exeunt: a line that is written there is a command, and what is read from the same open file is its answer. The
 * first word of an answer is `ok` or `error`; the write itself fails only if there is no such command. In a shell:
 *
 *	ask() { exec 3<>/proc/exeunt; echo "$*" >&3; cat <&3; }
 *
 *	call CPU|all X0 [X1 [X2 [X3]]]	any call; one line for each CPU with x0 to x3
 *	status				STATUS, and its record
 *	policy [kexec|crash|both leave|resident]
 *	leave				LEAVE
 *	leave-at-restart		when the kernel is restarted (kexec too), another CPU begins a LEAVE
 *	lock				LOCK
 *	reenter				every online CPU: SET_VECTORS to the table that REENTER named, and the call there
 *	log				all that LOG_READ gives
 *	work start|stop|show		threads that compute, allocate and unmap, and compare
 *	fill SIXTEENTHS			of free memory with a pattern
 *	crash KIND [CPU [NUMBER]]	see crash.c
 *
 * Parameter: calls=0 where there is nobody at EL2 (an HVC would be undefined).
 */

#include <linux/fs.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/proc_fs.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "calls.h"

static const struct {
	const char *name;
	int (*run)(struct answer *answer, char *words);
	bool calls;
} commands[] = {
	{ "call", command_call, true },
	{ "status", command_status, true },
	{ "policy", command_policy, true },
	{ "leave", command_leave, true },
	{ "leave-at-restart", command_leave_at_restart, true },
	{ "lock", command_lock, true },
	{ "reenter", command_reenter, true },
	{ "log", command_log, true },
	{ "work", command_work, false },
	{ "fill", command_fill, false },
	{ "crash", command_crash, false },
};

/* What belongs to one open file. */
struct conversation {
	struct mutex lock;
	size_t read;
	struct answer answer;
};

void say(struct answer *answer, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	answer->length += vscnprintf(answer->text + answer->length, ANSWER_SIZE - answer->length, format, arguments);
	va_end(arguments);
}

static int exeunt_open(struct inode *inode, struct file *file)
{
	struct conversation *conversation = vzalloc(sizeof(*conversation));

	if (!conversation)
		return -ENOMEM;
	mutex_init(&conversation->lock);
	file->private_data = conversation;
	return stream_open(inode, file);
}

static int exeunt_release(struct inode *inode, struct file *file)
{
	vfree(file->private_data);
	return 0;
}

static ssize_t exeunt_write(struct file *file, const char __user *from, size_t length, loff_t *offset)
{
	struct conversation *conversation = file->private_data;
	char *line, *words, *name;
	int error = -EINVAL;
	size_t i;

	if (length > 256)
		return -EINVAL;
	line = memdup_user_nul(from, length);
	if (IS_ERR(line))
		return PTR_ERR(line);
	words = strim(line);
	name = strsep(&words, " ");
	mutex_lock(&conversation->lock);
	conversation->read = 0;
	conversation->answer.length = 0;
	for (i = 0; i < ARRAY_SIZE(commands); i++) {
		if (strcmp(name, commands[i].name))
			continue;
		error = commands[i].calls && !calls_possible() ? -ENODEV :
								commands[i].run(&conversation->answer, words ?: "");
		break;
	}
	mutex_unlock(&conversation->lock);
	kfree(line);
	return error ?: length;
}

static ssize_t exeunt_read(struct file *file, char __user *to, size_t length, loff_t *offset)
{
	struct conversation *conversation = file->private_data;
	ssize_t result;

	mutex_lock(&conversation->lock);
	length = min(length, conversation->answer.length - conversation->read);
	if (copy_to_user(to, conversation->answer.text + conversation->read, length)) {
		result = -EFAULT;
	} else {
		conversation->read += length;
		result = length;
	}
	mutex_unlock(&conversation->lock);
	return result;
}

static const struct proc_ops operations = {
	.proc_open = exeunt_open,
	.proc_release = exeunt_release,
	.proc_read = exeunt_read,
	.proc_write = exeunt_write,
};

static int __init exeunt_begin(void)
{
	if (calls_possible())
		calls_begin();
	return proc_create("exeunt", 0600, NULL, &operations) ? 0 : -ENOMEM;
}

static void __exit exeunt_end(void)
{
	remove_proc_entry("exeunt", NULL);
	work_end();
}

module_init(exeunt_begin);
module_exit(exeunt_end);
MODULE_DESCRIPTION("Exeunt's calls and ways to crash, for tests");
MODULE_LICENSE("Dual MIT/GPL");
