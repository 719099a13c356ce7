//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package epochlog

import (
	"errors"
	"os"
	"syscall"
)

// lock waits for the lock on an open file, which ends with the process at the
// latest.
func lock(f *os.File) error {
	for {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX)
		if !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}

func unlock(f *os.File) error { return syscall.Flock(int(f.Fd()), syscall.LOCK_UN) }
