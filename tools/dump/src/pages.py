# Reads physical memory out of a dump of makedumpfile's, with drgn. Run by exeunt-dump; owns nothing.
#
#   python -c PAGES DUMP LENGTH < ADDRESSES
#
# For each address, one a line, it writes to stdout a 1 and so many bytes, or a 0 and as many zeros if the dump does not have them.

import sys

import drgn

path, length = sys.argv[1], int(sys.argv[2])
prog = drgn.Program()
# Nobody asks for types or names.
prog.set_enabled_debug_info_finders([])
prog.set_core_dump(path)
for line in sys.stdin:
    try:
        answer = b"\1" + prog.read(int(line), length, physical=True)
    except drgn.FaultError as error:
        # Then it reads no page at all.
        if "Invalid kernel version" in str(error):
            raise
        answer = bytes(length + 1)
    sys.stdout.buffer.write(answer)
