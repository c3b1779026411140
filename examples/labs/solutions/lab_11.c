// SPDX-License-Identifier: MIT OR Apache-2.0
/* Lab 11, a solution: a store to what stage 1 has as read-only. */

#include <linux/kernel.h>

#include "calls.h"

static const int constant = 1;

long exeunt_test_yours(void *unused)
{
	/* The compiler would do nothing, or anything, with a store that it sees. */
	int *hidden = (int *)&constant;

	OPTIMIZER_HIDE_VAR(hidden);
	WRITE_ONCE(*hidden, 2);
	return 0;
}
