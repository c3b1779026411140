// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * The calls to EL2 (docs/abi.md). Numbers and layouts come from guest-abi by way of exeunt_abi.h.
 *
 * Owns what REENTER said while Exeunt was there: after a LEAVE nobody can be asked.
 */

#include <asm/virt.h>
#include <linux/atomic.h>
#include <linux/cpu.h>
#include <linux/cpumask.h>
#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/notifier.h>
#include <linux/processor.h>
#include <linux/reboot.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/workqueue.h>

#include "calls.h"
#include "exeunt_abi.h"

static bool calls = true;
module_param(calls, bool, 0444);

/* x1 and x2 of REENTER; 0 where Exeunt was not there when the module was loaded. */
static u64 reenter_table, reenter_number;

bool calls_possible(void)
{
	/* From EL2 an HVC is taken to the kernel's own vectors. */
	return calls && !is_kernel_in_hyp_mode();
}

void call_here(struct registers *registers)
{
	register u64 x0 asm("x0") = registers->x[0];
	register u64 x1 asm("x1") = registers->x[1];
	register u64 x2 asm("x2") = registers->x[2];
	register u64 x3 asm("x3") = registers->x[3];

	/* hyp-abi.rst lets whoever answers change x0 to x18 (x18 is the compiler's to leave alone). */
	asm volatile("hvc #0"
		     : "+r"(x0), "+r"(x1), "+r"(x2), "+r"(x3)
		     :
		     : "x4", "x5", "x6", "x7", "x8", "x9", "x10", "x11", "x12", "x13", "x14", "x15", "x16", "x17",
		       "memory");
	registers->x[0] = x0;
	registers->x[1] = x1;
	registers->x[2] = x2;
	registers->x[3] = x3;
}

static void call_in_interrupt(void *registers)
{
	call_here(registers);
}

int call_on(int cpu, struct registers *registers)
{
	return smp_call_function_single(cpu, call_in_interrupt, registers, true);
}

static struct registers call(u64 x0, u64 x1, u64 x2, u64 x3)
{
	struct registers registers = { { x0, x1, x2, x3 } };

	call_on(raw_smp_processor_id(), &registers);
	return registers;
}

/* Says `ok`, or `error` and x0; returns whether it was the former. */
static bool succeeded(struct answer *answer, const struct registers *registers)
{
	if (!registers->x[0]) {
		say(answer, "ok");
		return true;
	}
	say(answer, "error %#llx\n", registers->x[0]);
	return false;
}

void calls_begin(void)
{
	static const u32 uid[] = { EXEUNT_UID_0, EXEUNT_UID_1, EXEUNT_UID_2, EXEUNT_UID_3 };
	struct registers registers = call(EXEUNT_CALL_CALL_UID, 0, 0, 0);
	int i;

	for (i = 0; i < 4; i++) {
		if ((u32)registers.x[i] != uid[i]) {
			pr_info("exeunt_test: Exeunt does not answer: x0 %#llx\n", registers.x[0]);
			return;
		}
	}
	registers = call(EXEUNT_CALL_REENTER, 0, 0, 0);
	if (registers.x[0]) {
		pr_info("exeunt_test: REENTER answers %#llx\n", registers.x[0]);
		return;
	}
	reenter_table = registers.x[1];
	reenter_number = registers.x[2];
}

/* Reads a number of any base from the next of the words; a missing one is 0. */
static int next_number(char **words, u64 *value)
{
	char *word = strsep(words, " ");

	*value = 0;
	return word && *word ? kstrtou64(word, 0, value) : 0;
}

int command_call(struct answer *answer, char *words)
{
	char *which = strsep(&words, " ");
	struct registers given, registers;
	unsigned int only = nr_cpu_ids, cpu;
	int i, error;

	for (i = 0; i < 4; i++)
		if (next_number(&words, &given.x[i]))
			return -EINVAL;
	if (strcmp(which, "all") && kstrtouint(which, 10, &only))
		return -EINVAL;
	say(answer, "ok\n");
	cpus_read_lock();
	for_each_online_cpu(cpu) {
		if (only != nr_cpu_ids && cpu != only)
			continue;
		registers = given;
		error = call_on(cpu, &registers);
		if (error)
			say(answer, "cpu %u error %d\n", cpu, error);
		else
			say(answer, "cpu %u %#llx %#llx %#llx %#llx\n", cpu, registers.x[0], registers.x[1],
			    registers.x[2], registers.x[3]);
	}
	cpus_read_unlock();
	return 0;
}

int command_status(struct answer *answer, char *words)
{
	struct exeunt_status_header *header = (void *)get_zeroed_page(GFP_KERNEL);
	struct registers registers;
	unsigned int first = 0, i, class;

	if (!header)
		return -ENOMEM;
	do {
		registers = call(EXEUNT_CALL_STATUS, virt_to_phys(header), EXEUNT_PAGE, first);
		if (!succeeded(answer, &registers))
			break;
		say(answer, " summary %#llx cpus %u live %u locked %u kexec %u crash %u\n", registers.x[2], header->cpus,
		    (unsigned int)(registers.x[2] >> EXEUNT_SUMMARY_LIVE_SHIFT) & 0xffff,
		    !!(registers.x[2] & EXEUNT_SUMMARY_LOCKED),
		    (unsigned int)(registers.x[2] >> EXEUNT_SUMMARY_KEXEC_POLICY_SHIFT) & 1,
		    (unsigned int)(registers.x[2] >> EXEUNT_SUMMARY_CRASH_POLICY_SHIFT) & 1);
		for (i = 0; i < header->described; i++) {
			struct exeunt_status_cpu *cpu = (void *)header + header->header_size + i * header->cpu_size;

			say(answer, "cpu %u mpidr %#llx state %u entry %u flags %#x vectors %#llx departures %u returns %u",
			    first + i, cpu->mpidr, cpu->state, cpu->entry_level, cpu->flags, cpu->host_vectors,
			    cpu->departures, cpu->returns);
			say(answer, " exits");
			for (class = 0; class < ARRAY_SIZE(cpu->exits); class++)
				say(answer, " %llu", cpu->exits[class]);
			say(answer, "\n");
		}
		first += header->described;
	} while (header->described && first < header->cpus);
	free_page((unsigned long)header);
	return 0;
}

int command_policy(struct answer *answer, char *words)
{
	static const char *const names[] = { "leave", "resident" };
	char *which = strsep(&words, " ");
	u64 mask = 0, policy = 0;
	struct registers registers;

	if (*which) {
		if (!strcmp(which, "kexec"))
			mask = EXEUNT_RESTART_KEXEC;
		else if (!strcmp(which, "crash"))
			mask = EXEUNT_RESTART_CRASH;
		else if (!strcmp(which, "both"))
			mask = EXEUNT_RESTART_KEXEC | EXEUNT_RESTART_CRASH;
		else
			return -EINVAL;
		if (!words)
			return -EINVAL;
		if (!strcmp(words, names[EXEUNT_POLICY_RESIDENT]))
			policy = EXEUNT_POLICY_RESIDENT;
		else if (strcmp(words, names[EXEUNT_POLICY_LEAVE]))
			return -EINVAL;
	}
	registers = call(EXEUNT_CALL_RESTART_POLICY, mask, policy, 0);
	if (succeeded(answer, &registers))
		say(answer, " kexec %s crash %s\n", names[registers.x[1] & 1], names[registers.x[2] & 1]);
	return 0;
}

int command_leave(struct answer *answer, char *words)
{
	struct registers registers = call(EXEUNT_CALL_LEAVE, 0, 0, 0);

	if (succeeded(answer, &registers))
		say(answer, " left %llu\n", registers.x[1]);
	return 0;
}

static atomic_t leave_begun = ATOMIC_INIT(0);

static void leave_in_work(struct work_struct *work)
{
	struct registers registers = { { EXEUNT_CALL_LEAVE } };

	atomic_set(&leave_begun, 1);
	call_here(&registers);
	pr_emerg("exeunt_test: LEAVE at a restart answered %#llx\n", registers.x[0]);
}

static DECLARE_WORK(leave_work, leave_in_work);

static int leave_at_restart(struct notifier_block *block, unsigned long action, void *unused)
{
	unsigned int cpu = cpumask_any_but(cpu_online_mask, raw_smp_processor_id());

	if (cpu < nr_cpu_ids) {
		schedule_work_on(cpu, &leave_work);
		while (!atomic_read(&leave_begun))
			cpu_relax();
	}
	return NOTIFY_DONE;
}

static struct notifier_block leave_notifier = { .notifier_call = leave_at_restart };

int command_leave_at_restart(struct answer *answer, char *words)
{
	int error = register_reboot_notifier(&leave_notifier);

	if (!error)
		say(answer, "ok\n");
	return error;
}

int command_lock(struct answer *answer, char *words)
{
	struct registers registers = call(EXEUNT_CALL_LOCK, 0, 0, 0);

	if (succeeded(answer, &registers))
		say(answer, "\n");
	return 0;
}

/* What became of each CPU: x0 of the call that refused, or 0. */
static u64 reentered[NR_CPUS];

static void reenter_here(void *unused)
{
	struct registers registers = { { EXEUNT_CALL_VERSION } };

	/* One that is `Live` stays so: it was started since the LEAVE, or there was none. */
	call_here(&registers);
	if ((s64)registers.x[0] > 0 && registers.x[0] != EXEUNT_STUB_ERR) {
		reentered[smp_processor_id()] = 0;
		return;
	}
	/* In an interrupt: nothing on this CPU can come between the two calls. */
	registers = (struct registers){ { EXEUNT_CALL_SET_VECTORS, reenter_table } };
	call_here(&registers);
	if (!registers.x[0]) {
		registers = (struct registers){ { reenter_number } };
		call_here(&registers);
	}
	reentered[smp_processor_id()] = registers.x[0];
}

int command_reenter(struct answer *answer, char *words)
{
	unsigned int cpu, refused = 0;

	if (!reenter_table)
		return -ENODEV;
	cpus_read_lock();
	on_each_cpu(reenter_here, NULL, true);
	for_each_online_cpu(cpu)
		refused += !!reentered[cpu];
	say(answer, refused ? "error" : "ok");
	for_each_online_cpu(cpu)
		say(answer, " %#llx", reentered[cpu]);
	say(answer, "\n");
	cpus_read_unlock();
	return 0;
}

int command_log(struct answer *answer, char *words)
{
	char *page = (char *)get_zeroed_page(GFP_KERNEL);
	struct registers registers;
	u64 position = 0;

	if (!page)
		return -ENOMEM;
	do {
		registers = call(EXEUNT_CALL_LOG_READ, position, virt_to_phys(page), EXEUNT_PAGE);
		if (registers.x[0]) {
			say(answer, "error %#llx\n", registers.x[0]);
			break;
		}
		if (!position)
			say(answer, "ok lost %llu\n", registers.x[3]);
		say(answer, "%.*s", (int)registers.x[1], page);
		position = registers.x[2];
	} while (registers.x[1]);
	free_page((unsigned long)page);
	return 0;
}
