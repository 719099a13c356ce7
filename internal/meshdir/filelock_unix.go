//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package meshdir

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"
)

const (
	// lockWait bounds the wait for a lock: who has one only writes a few files, so one
	// that is not free by then belongs to a process that hangs or was suspended.
	lockWait = 20 * time.Second
	lockLook = 10 * time.Millisecond
)

// lockFile waits for the lock of a file, which ends with the process at the latest.
// A file system without locks has none: then one process alone may use the directory.
func lockFile(path string) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(lockWait); ; time.Sleep(lockLook) {
		err = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if !errors.Is(err, syscall.EINTR) && !errors.Is(err, syscall.EWOULDBLOCK) {
			break
		}
		if time.Now().After(end) {
			f.Close() //nolint:errcheck // nothing was written
			return nil, fmt.Errorf("%q is held by another process, for longer than %s", path, lockWait)
		}
	}
	return func() { f.Close() }, nil //nolint:errcheck // nothing was written
}
