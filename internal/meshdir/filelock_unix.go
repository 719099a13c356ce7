//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package meshdir

import (
	"errors"
	"os"
	"syscall"
)

// lockFile waits for the lock of a file, which ends with the process at the latest.
// A file system without locks has none: then one process alone may use the directory.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for err = syscall.EINTR; errors.Is(err, syscall.EINTR); {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
	}
	return func() { f.Close() }, nil //nolint:errcheck // nothing was written
}
