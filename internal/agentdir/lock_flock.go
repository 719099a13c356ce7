//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package agentdir

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// lock takes the lock of a file, which ends with its process at the latest. Who
// does not get it in time goes on without: the file is then replaced in one step
// all the same, and what another process adds meanwhile may have to be added again.
func lock(path string, most time.Duration) (unlock func(), err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	for end := time.Now().Add(most); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil || time.Now().After(end):
			return func() { f.Close() }, nil //nolint:errcheck // nothing was written
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return func() { f.Close() }, nil //nolint:errcheck // a file system without locks
		}
	}
}
