# shellcheck shell=dash # the runner puts the variables and common.sh before it
# The kernel on the other machine, which finds the image and resumes from it.

load_modules /modules first
cat /sys/block/vda/dev >/sys/power/resume
echo "first bad there was no image to resume from: $(dmesg | grep -i hibernat | tail -n1)"
false
