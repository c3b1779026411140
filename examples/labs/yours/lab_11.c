// SPDX-License-Identifier: MIT OR Apache-2.0
/* Lab 11, your part: make a kernel die (docs/labs/lab-11.md). */

#include <linux/kernel.h>

#include "calls.h"

/* Runs in a Linux 6.12, in process context, on CPU 0. */
long exeunt_test_yours(void *unused)
{
	pr_info("yours: not yet\n");
	return 0;
}
