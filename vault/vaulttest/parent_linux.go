package vaulttest

import "syscall"

// dieWithParent makes the kernel kill the child when the thread that started it
// ends, also when the test binary is killed.
func dieWithParent() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
