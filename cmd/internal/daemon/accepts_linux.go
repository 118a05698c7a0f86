package daemon

import "syscall"

// acceptsConnections is not 0 when listen(2) was called (SO_ACCEPTCONN, socket(7)).
func acceptsConnections(fd int) (int, error) {
	return syscall.GetsockoptInt(fd, syscall.SOL_SOCKET, syscall.SO_ACCEPTCONN)
}
