//go:build !linux

package vaulttest

import "syscall"

// dieWithParent has no like elsewhere: a killed test binary leaves its server.
//
// BUG: on macOS a test that is killed leaves its Vault running.
func dieWithParent() *syscall.SysProcAttr { return nil }
