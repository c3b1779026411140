// SPDX-License-Identifier: MIT OR Apache-2.0
/*
 * A pattern in memory that a dump must have bit for bit: `fill SIXTEENTHS` of what is free. Pages of a CMA area do not count: they
 * are free, but not for the kernel's own use, and those who count on them meet the OOM killer.
 *
 * Each page alternates between PATTERN and its own physical address, so that a page that is in the wrong place is noticed as
 * well. Owns the pages until the kernel dies: they are the kernel's own, which makedumpfile leaves out at no level.
 */

#include <linux/gfp.h>
#include <linux/io.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/vmstat.h>

#include "calls.h"

/* "EXEUNTPT", the first letter in the lowest byte; scripts/read-dump looks for it. */
#define PATTERN 0x5450544e55455845ULL

int command_fill(struct answer *answer, char *words)
{
	unsigned long sixteenths, wanted, done;

	if (kstrtoul(words, 10, &sixteenths) || sixteenths > 15)
		return -EINVAL;
	wanted = global_zone_page_state(NR_FREE_PAGES) - global_zone_page_state(NR_FREE_CMA_PAGES);
	wanted = wanted / 16 * sixteenths;
	for (done = 0; done < wanted; done++) {
		struct page *page = alloc_page(GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
		u64 *word;
		size_t i;

		if (!page)
			break;
		word = page_address(page);
		for (i = 0; i < PAGE_SIZE / sizeof(*word); i += 2) {
			word[i] = PATTERN;
			word[i + 1] = page_to_phys(page);
		}
		cond_resched();
	}
	say(answer, "ok pages %lu\n", done);
	return 0;
}
