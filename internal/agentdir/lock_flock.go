//go:build darwin || dragonfly || freebsd || linux || netbsd || openbsd

package agentdir

import (
	"errors"
	"os"
	"syscall"
	"time"
)

// lock takes the lock of a file, which ends with its process at the latest; held is
// false where another process kept it for all of the time. Where a file is replaced
// in one step one may go on without: what another process adds meanwhile may have to
// be added again.
func lock(path string, most time.Duration) (unlock func(), held bool, err error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, false, err
	}
	unlock = func() { f.Close() } //nolint:errcheck // nothing was written
	for end := time.Now().Add(most); ; time.Sleep(10 * time.Millisecond) {
		err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		switch {
		case err == nil:
			return unlock, true, nil
		case !errors.Is(err, syscall.EWOULDBLOCK) && !errors.Is(err, syscall.EINTR):
			return unlock, true, nil // a file system without locks
		case time.Now().After(end):
			return unlock, false, nil
		}
	}
}
