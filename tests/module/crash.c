// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * Ways in which a kernel dies, for what comes after. `crash KIND [CPU [NUMBER]]`, CPU 0 if none is named:
 *
 *	null		a null pointer, in process context
 *	irq		... in a hard interrupt
 *	timer		... in a timer
 *	masked		... with D, A, I and F masked
 *	bug		BUG()
 *	overflow	the kernel stack
 *	hvc		a null pointer right behind a call to EL2
 *	hvc-other	... while the next CPU makes nothing but calls to EL2
 *	stuck		... while the next CPU spins with D, A, I and F masked
 *	stuck-all	... while all others do
 *	stuck-stop	... and the next CPU hangs in the kernel's own stop, before it has written its registers down
 *	lockup		none: CPU spins with D, A, I and F masked, and nobody asks for anything
 *	lockup-all	... and all others do
 *	busy-all	none: CPU and all others spin with interrupts enabled, and never schedule
 *	spin		none: CPU spins with D, A, I and F masked, and the kernel lives on as long as it can without it
 *	deaf		none, either: the same, and whatever exception comes to it finds no more than a loop
 *	hotplug		BUG() on CPU when it has just been brought up again, in a callback of hotplug
 *	hotplug-down	a null pointer on CPU while it is taken off
 *	restart		... when the kernel is restarted: on whichever CPU asks for that, later (Linux holds the lock of
 *			the loaded kernels then, and enters no crash kernel)
 *	wild		over all of the memory that is kept for the crash kernel, and then a null pointer; NUMBER says by
 *			what: 0 memset, 1 a store in each page, 2 a pair, 3 an atomic operation, 4 DC ZVA
 *	leave		... on CPU while the next one is in LEAVE; NUMBER turns of a loop after it began
 *	yours		as the eleventh lab of the book has it (examples/labs/yours/lab_11.c), if that was built in
 *
 * Whether an oops is the end is the kernel's choice: panic_on_oops=1 (`oops=panic`) wherever no interrupt is involved.
 * The next CPU is the next online one. Owns nothing that outlives the kernel.
 */

#include <asm/barrier.h>
#include <asm/sysreg.h>
#include <linux/atomic.h>
#include <linux/cpu.h>
#include <linux/cpuhotplug.h>
#include <linux/cpumask.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/irq_work.h>
#include <linux/kernel.h>
#include <linux/kprobes.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/notifier.h>
#include <linux/processor.h>
#include <linux/reboot.h>
#include <linux/sched.h>
#include <linux/smp.h>
#include <linux/string.h>
#include <linux/timer.h>
#include <linux/vmalloc.h>
#include <linux/workqueue.h>

#include "calls.h"
#include "exeunt_abi.h"

/* Where the other CPU is. */
static atomic_t other_ready = ATOMIC_INIT(0);
/* How many there are. */
static unsigned int others = 1;
static u64 turns;

static noinline void exeunt_test_null(void)
{
	int *volatile nothing = NULL;

	*nothing = 1;
}

static long null_here(void *unused)
{
	exeunt_test_null();
	return 0;
}

static void null_in_irq_work(struct irq_work *work)
{
	exeunt_test_null();
}

static DEFINE_IRQ_WORK(irq_work, null_in_irq_work);

static long raise_irq_work(void *unused)
{
	irq_work_queue(&irq_work);
	return 0;
}

static void null_in_timer(struct timer_list *timer)
{
	exeunt_test_null();
}

static DEFINE_TIMER(timer, null_in_timer);

static long null_masked(void *unused)
{
	asm volatile("msr daifset, #0xf" ::: "memory");
	exeunt_test_null();
	return 0;
}

static long bug_here(void *unused)
{
	BUG();
	return 0;
}

/* Not a tail call, and with something on the stack: the compiler must not make a loop of it. */
static noinline u64 exeunt_test_recurse(u64 depth)
{
	u64 frame[32];

	frame[depth % 32] = depth;
	barrier_data(frame);
	/* It has an end, as far as the compiler can tell. */
	return READ_ONCE(turns) == ~0ULL ? 0 : frame[depth % 32] + exeunt_test_recurse(depth + 1);
}

static long overflow_here(void *unused)
{
	return (long)exeunt_test_recurse(0);
}

static long null_after_hvc(void *unused)
{
	struct registers registers = { { EXEUNT_CALL_VERSION } };

	call_here(&registers);
	exeunt_test_null();
	return 0;
}

/* --- what the next CPU does meanwhile --- */

static void only_calls(void *unused)
{
	atomic_inc(&other_ready);
	for (;;) {
		struct registers registers = { { EXEUNT_CALL_VERSION } };

		call_here(&registers);
	}
}

static noinline void spin_masked(void *unused)
{
	asm volatile("msr daifset, #0xf" ::: "memory");
	atomic_inc(&other_ready);
	for (;;)
		cpu_relax();
}

static noinline void spin_busy(void *unused)
{
	preempt_disable();
	atomic_inc(&other_ready);
	for (;;)
		cpu_relax();
}

/* A table of vectors (VBAR_EL1): each of its entries is one instruction, a branch to itself. */
asm(".pushsection .text, \"ax\"\n"
    ".balign 2048\n"
    "exeunt_test_deaf_vectors:\n"
    ".rept 16\n"
    "	b	.\n"
    "	.balign 128\n"
    ".endr\n"
    ".popsection");

extern const char exeunt_test_deaf_vectors[];

static void spin_deaf(void *unused)
{
	asm volatile("msr daifset, #0xf" ::: "memory");
	write_sysreg((u64)exeunt_test_deaf_vectors, vbar_el1);
	isb();
	atomic_inc(&other_ready);
	for (;;)
		cpu_relax();
}

static void leave_now(void *unused)
{
	struct registers registers = { { EXEUNT_CALL_LEAVE } };

	atomic_inc(&other_ready);
	call_here(&registers);
	pr_info("exeunt_test: LEAVE answered %#llx\n", registers.x[0]);
}

static int other_thread(void *what)
{
	void (*act)(void *unused) = what;

	/* With interrupts as they are: only_calls is to be found by the stop of a dying kernel, but never scheduled away. */
	preempt_disable();
	act(NULL);
	preempt_enable();
	return 0;
}

/* Has CPU `cpu` do this. */
static int begin_on(unsigned int cpu, void (*act)(void *unused))
{
	struct task_struct *thread = kthread_create(other_thread, act, "exeunt-other");

	if (IS_ERR(thread))
		return PTR_ERR(thread);
	kthread_bind(thread, cpu);
	wake_up_process(thread);
	return 0;
}

/* Has CPU `cpu`, which is not this one, spin. */
static int spin_on(unsigned int cpu, void (*spin)(void *unused))
{
	int error = begin_on(cpu, spin);

	while (!error && !atomic_read(&other_ready))
		cpu_relax();
	return error;
}

/*
 * The next online CPU after `cpu`, which is that itself if there is no other. A function of its own would go to a section
 * for cold code, whose alignment the kernel's function tracing does not take.
 */
static __always_inline unsigned int next_online(unsigned int cpu)
{
	unsigned int next = cpumask_next(cpu, cpu_online_mask);

	return next < nr_cpu_ids ? next : cpumask_first(cpu_online_mask);
}

static long spin_here(void *unused)
{
	spin_masked(NULL);
	return 0;
}

/* Has the next online CPU after `cpu`, or all others, do this. */
static int begin_on_others(unsigned int cpu, void (*act)(void *unused), bool all)
{
	static struct task_struct *threads[NR_CPUS];
	unsigned int next = next_online(cpu), other;
	int error = 0;

	if (next == cpu)
		return -ENODEV;
	/* All are made before the first begins: whoever makes the others may run where that one never stops. */
	for_each_online_cpu(other) {
		if (other == cpu || (!all && other != next))
			continue;
		threads[other] = kthread_create(other_thread, act, "exeunt-other");
		if (IS_ERR(threads[other])) {
			error = PTR_ERR(threads[other]);
			threads[other] = NULL;
			break;
		}
		kthread_bind(threads[other], other);
	}
	for_each_possible_cpu(other) {
		if (!threads[other])
			continue;
		if (error)
			kthread_stop(threads[other]);
		else
			wake_up_process(threads[other]);
	}
	if (all)
		others = num_online_cpus() - 1;
	return error;
}

/* Runs on CPU `cpu`, which must not be scheduled away between the other's begin and this. */
static long null_beside_other(void *unused)
{
	u64 turn;

	while (atomic_read(&other_ready) < others)
		cpu_relax();
	for (turn = 0; turn < READ_ONCE(turns); turn++)
		cpu_relax();
	exeunt_test_null();
	return 0;
}

/* --- a stop that hangs --- */

static unsigned int hanging_cpu;

/* Comes before the first instruction of crash_save_cpu, in the interrupt by which the dying kernel stops its CPUs. */
static int hang_in_stop(struct kprobe *probe, struct pt_regs *registers)
{
	/* Everything is masked here. */
	while (raw_smp_processor_id() == READ_ONCE(hanging_cpu))
		cpu_relax();
	return 0;
}

static struct kprobe stop_probe = { .symbol_name = "crash_save_cpu", .pre_handler = hang_in_stop };

static int hang_next_in_stop(unsigned int cpu)
{
	hanging_cpu = next_online(cpu);
	return hanging_cpu == cpu ? -ENODEV : register_kprobe(&stop_probe);
}

static long spin_beside_others(void *unused)
{
	while (atomic_read(&other_ready) < others)
		cpu_relax();
	return spin_here(NULL);
}

static long spin_busy_beside_others(void *unused)
{
	while (atomic_read(&other_ready) < others)
		cpu_relax();
	spin_busy(NULL);
	return 0;
}

/* --- hotplug --- */

static unsigned int dying_cpu;

static int null_on_that_cpu(unsigned int cpu)
{
	if (cpu == dying_cpu)
		exeunt_test_null();
	return 0;
}

static int bug_on_that_cpu(unsigned int cpu)
{
	BUG_ON(cpu == dying_cpu);
	return 0;
}

static int hotplug(unsigned int cpu, bool down)
{
	int error;

	dying_cpu = cpu;
	error = cpuhp_setup_state_nocalls(CPUHP_AP_ONLINE_DYN, "exeunt:test", down ? NULL : bug_on_that_cpu,
					  down ? null_on_that_cpu : NULL);
	if (error < 0)
		return error;
	error = remove_cpu(cpu);
	return error ?: add_cpu(cpu);
}

/* --- wild writes --- */

struct memory {
	phys_addr_t start;
	size_t size;
};

static int take_memory(struct resource *resource, void *memory)
{
	*(struct memory *)memory = (struct memory){ resource->start, resource_size(resource) };
	return 1;
}

static void *wild_memory;
static size_t wild_size;

/*
 * The memory of the crash kernel, mapped anew: Linux before 6.12 takes what is loaded out of its linear map.
 */
static int map_wild(void)
{
	struct memory memory = { 0 };
	struct page **pages;
	size_t count, i;

	walk_iomem_res_desc(IORES_DESC_CRASH_KERNEL, IORESOURCE_SYSTEM_RAM | IORESOURCE_BUSY, 0, -1, &memory, take_memory);
	count = memory.size >> PAGE_SHIFT;
	if (!count)
		return -ENOMEM;
	pages = vmalloc(count * sizeof(*pages));
	if (!pages)
		return -ENOMEM;
	for (i = 0; i < count; i++)
		pages[i] = pfn_to_page((memory.start >> PAGE_SHIFT) + i);
	wild_memory = vmap(pages, count, VM_MAP, PAGE_KERNEL);
	vfree(pages);
	wild_size = memory.size;
	return wild_memory ? 0 : -ENOMEM;
}

static noinline void exeunt_test_wild(char *at, char *end, u64 way)
{
	u64 block = 4 << (read_sysreg(dczid_el0) & 0xf);

	if (way == 0) {
		memset(at, 0xa5, end - at);
		return;
	}
	for (; at < end; at += way == 4 ? block : PAGE_SIZE) {
		switch (way) {
		case 1:
			WRITE_ONCE(*(u64 *)at, 0x5a5a5a5a5a5a5a5aULL);
			break;
		case 2:
			asm volatile("stp %0, %0, [%1]" ::"r"(0x5a5a5a5a5a5a5a5aULL), "r"(at) : "memory");
			break;
		case 3:
			atomic64_add(0x5a5a5a5a, (atomic64_t *)at);
			break;
		default:
			asm volatile("dc zva, %0" ::"r"(at) : "memory");
			break;
		}
	}
}

static long wild_here(void *unused)
{
	exeunt_test_wild(wild_memory, (char *)wild_memory + wild_size, READ_ONCE(turns));
	pr_emerg("exeunt_test: all of the crash kernel's memory was written to\n");
	exeunt_test_null();
	return 0;
}

/* --- restart --- */

static int null_at_restart(struct notifier_block *block, unsigned long action, void *unused)
{
	exeunt_test_null();
	return NOTIFY_DONE;
}

static struct notifier_block restart_notifier = { .notifier_call = null_at_restart };

/* `scripts/module` with EXEUNT_LAB= puts another in its place. */
long __weak exeunt_test_yours(void *unused)
{
	return -ENOENT;
}

int command_crash(struct answer *answer, char *words)
{
	static const struct {
		const char *kind;
		long (*act)(void *unused);
		void (*other)(void *unused);
		bool calls, all;
	} kinds[] = {
		{ "null", null_here },
		{ "irq", raise_irq_work },
		{ "masked", null_masked },
		{ "bug", bug_here },
		{ "overflow", overflow_here },
		{ "hvc", null_after_hvc, NULL, true },
		{ "hvc-other", null_beside_other, only_calls, true },
		{ "stuck", null_beside_other, spin_masked },
		{ "stuck-all", null_beside_other, spin_masked, .all = true },
		{ "stuck-stop", null_here },
		{ "lockup", spin_here },
		{ "lockup-all", spin_beside_others, spin_masked, .all = true },
		{ "busy-all", spin_busy_beside_others, spin_busy, .all = true },
		{ "wild", wild_here },
		{ "leave", null_beside_other, leave_now, true },
		{ "yours", exeunt_test_yours },
	};
	char *kind = strsep(&words, " "), *word = strsep(&words, " ");
	unsigned int cpu = 0;
	int error;
	size_t i;

	if ((word && kstrtouint(word, 10, &cpu)) || (words && kstrtou64(words, 10, &turns)))
		return -EINVAL;
	if (cpu >= nr_cpu_ids || !cpu_online(cpu))
		return -ENXIO;
	pr_emerg("exeunt_test: crash %s on CPU %u\n", kind, cpu);
	if (!strcmp(kind, "timer")) {
		timer.expires = jiffies + 1;
		add_timer_on(&timer, cpu);
		return 0;
	}
	if (!strcmp(kind, "spin") || !strcmp(kind, "deaf"))
		return cpu == raw_smp_processor_id() ? -EBUSY : spin_on(cpu, *kind == 's' ? spin_masked : spin_deaf);
	if (!strcmp(kind, "restart"))
		return register_reboot_notifier(&restart_notifier);
	if (!strcmp(kind, "hotplug") || !strcmp(kind, "hotplug-down"))
		return hotplug(cpu, kind[7]);
	for (i = 0; i < ARRAY_SIZE(kinds); i++) {
		if (strcmp(kind, kinds[i].kind))
			continue;
		if (kinds[i].calls && !calls_possible())
			return -ENODEV;
		error = 0;
		if (kinds[i].act == wild_here)
			error = map_wild();
		else if (!strcmp(kind, "stuck-stop"))
			error = hang_next_in_stop(cpu);
		if (error)
			return error;
		if (kinds[i].other) {
			error = begin_on_others(cpu, kinds[i].other, kinds[i].all);
			if (error)
				return error;
		}
		return work_on_cpu(cpu, kinds[i].act, NULL);
	}
	return -EINVAL;
}
