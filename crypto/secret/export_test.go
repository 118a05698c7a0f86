package secret

import "sync"

// WithoutMemfdSecret makes the process's region anew as on a kernel that has no
// memfd_secret: before anything is kept.
func WithoutMemfdSecret() {
	theRegion = sync.OnceValue(func() *region { return newRegion(mapRegion(RegionSize, false)) })
}

// RegionBytes is the region itself.
func RegionBytes() []byte { return theRegion().bytes }
