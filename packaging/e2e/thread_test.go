package e2e

import (
	"context"
	"net"
	"net/http"
	"runtime"
	"syscall"
	"time"
	"unsafe"
)

// as is a caller in this process whose connections are another user's: the
// kernel notes who connects by the credentials of the thread that does
// (unix(7), SO_PEERCRED), and one thread's can be changed alone. It is for
// callers that are too fast, or too many, for a process each.
func (w *world) as(uid uint32, listener string) rootCaller {
	path := w.socket(listener)
	dial := func(ctx context.Context, _, _ string) (net.Conn, error) {
		return dialAs(ctx, path, uid)
	}
	return rootCaller{w.t, &http.Client{Timeout: 40 * time.Second, Transport: &http.Transport{DialContext: dial, MaxIdleConnsPerHost: 128}}}
}

// dialAs connects as that user with these groups, by default those of both sockets
// for apps.
func dialAs(ctx context.Context, path string, uid uint32, groups ...uint32) (c net.Conn, err error) {
	if len(groups) == 0 {
		groups = []uint32{publicGID, privateGID}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		id := uintptr(uid)
		// syscall.Setgroups and its like change every thread.
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(&groups[0])), 0); errno != 0 {
			err = errno
			return
		}
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESGID, id, id, id); errno != 0 {
			err = errno
			return
		}
		if _, _, errno := syscall.RawSyscall(syscall.SYS_SETRESUID, id, id, id); errno != 0 {
			err = errno
			return
		}
		c, err = new(net.Dialer).DialContext(ctx, "unix", path)
	}()
	<-done
	return c, err
}
