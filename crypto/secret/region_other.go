//go:build !linux

package secret

// mapRegion: without the system calls of Linux everything stays on the heap.
func mapRegion(int, bool) mapped {
	return mapped{reason: "there is a locked region on Linux only: secrets are on the heap"}
}
