package restart

import (
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

// patience bounds how long the service manager may take, to receive and to answer.
const patience = 5 * time.Second

// Keep pushes f into systemd's file descriptor store under name, by the socket in
// $NOTIFY_SOCKET, and waits until systemd has read it (sd_notify(3): FDSTORE=1,
// FDNAME=, FDPOLL=0, BARRIER=1). A restart finds it among the inherited descriptors.
// That systemd stores it, is not said (see the package's BUG).
func Keep(name string, f *os.File) error {
	defer runtime.KeepAlive(f)
	if err := push("FDSTORE=1\nFDNAME="+name+"\nFDPOLL=0", patience, int(f.Fd())); err != nil {
		return fmt.Errorf("keep %s: %w", name, err)
	}
	return nil
}

// Drop removes what was kept under name (sd_notify(3): FDSTOREREMOVE=1).
func Drop(name string) error {
	if err := push("FDSTOREREMOVE=1\nFDNAME="+name, patience); err != nil {
		return fmt.Errorf("drop %s: %w", name, err)
	}
	return nil
}

// push sends one message with descriptors, and a barrier behind it.
func push(message string, wait time.Duration, fds ...int) error {
	path := os.Getenv("NOTIFY_SOCKET")
	if path == "" || path[0] != '/' && path[0] != '@' {
		return errors.New("there is no $NOTIFY_SOCKET that is a path or an abstract name")
	}
	s, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(s) }()
	limit := unix.NsecToTimeval(int64(wait))
	if err := unix.SetsockoptTimeval(s, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	to := &unix.SockaddrUnix{Name: path}
	if err := send(s, message, to, fds...); err != nil {
		return err
	}
	return awaitBarrier(s, to, wait)
}

func send(s int, message string, to *unix.SockaddrUnix, fds ...int) error {
	var rights []byte
	if len(fds) > 0 {
		rights = unix.UnixRights(fds...)
	}
	for {
		err := unix.Sendmsg(s, []byte(message), rights, to, unix.MSG_NOSIGNAL)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// awaitBarrier sends the writing end of a pipe, which the receiver closes when it has
// read everything before.
func awaitBarrier(s int, to *unix.SockaddrUnix, wait time.Duration) error {
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		return err
	}
	defer func() { _ = unix.Close(p[0]) }()
	err := send(s, "BARRIER=1", to, p[1])
	_ = unix.Close(p[1])
	if err != nil {
		return err
	}
	poll := []unix.PollFd{{Fd: int32(p[0])}} // POLLHUP is always reported (poll(2))
	for end := time.Now().Add(wait); ; {
		n, err := unix.Poll(poll, max(int(time.Until(end)/time.Millisecond), 0))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return err
		case n == 0:
			return fmt.Errorf("systemd did not read it within %v", wait)
		default:
			return nil
		}
	}
}
