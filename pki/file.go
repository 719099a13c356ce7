package pki

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/sealmesh/sealmesh/internal/limits"
)

const (
	secretMode fs.FileMode = 0o600
	publicMode fs.FileMode = 0o644
)

// ModeError says that a secret file can be used by others than its owner. It is
// an fs.ErrPermission.
type ModeError struct {
	Path string
	Mode fs.FileMode
}

// Error implements error and ends with the command that helps.
func (e *ModeError) Error() string {
	return fmt.Sprintf("pki: secret file %q has mode %04o, so that others can use it; run: %s", e.Path, e.Mode.Perm(), e.Hint())
}

// Hint returns the shell command that narrows the file's mode.
func (e *ModeError) Hint() string { return "chmod 600 " + shellQuote(e.Path) }

// Is makes errors.Is(err, fs.ErrPermission) true.
func (e *ModeError) Is(target error) bool { return target == fs.ErrPermission }

// WriteSecret writes a new secret file of mode 0600. It never overwrites: where
// the path exists the error is fs.ErrExist. The file appears complete or not at
// all, and is on disk when WriteSecret returns. The folder must exist.
func WriteSecret(path string, data []byte) error {
	return write(path, data, secretMode, false)
}

// ReplaceSecret is WriteSecret for a secret that may exist and is replaced, in
// one step, so that a reader sees the old one or the new one.
func ReplaceSecret(path string, data []byte) error {
	return write(path, data, secretMode, true)
}

// WriteFile writes a public file of mode 0644, whatever the umask, in the way
// of [ReplaceSecret].
func WriteFile(path string, data []byte) error {
	return write(path, data, publicMode, true)
}

// ReadFile reads a regular public file, as one of certificates, of at most
// limits.CertificateText bytes.
func ReadFile(path string) ([]byte, error) {
	data, _, err := read(path, false, limits.CertificateText)
	return data, err
}

// ReadSecret reads a regular file of at most limits.SecretFile bytes, and
// refuses it with a [ModeError] if its mode is wider than 0600.
func ReadSecret(path string) ([]byte, error) {
	data, _, err := read(path, true, limits.SecretFile)
	return data, err
}

// read checks the file that it opened, not the path, which could be exchanged
// in between.
func read(path string, secret bool, limit int64) ([]byte, fs.FileInfo, error) {
	// A stat first: opening a named pipe would wait for a writer.
	info, err := os.Stat(path)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: reading a file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("pki: %q is not a regular file", path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, nil, fmt.Errorf("pki: reading a file: %w", err)
	}
	defer func() { _ = f.Close() }()
	if info, err = f.Stat(); err != nil {
		return nil, nil, fmt.Errorf("pki: reading a file: %w", err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("pki: %q is not a regular file", path)
	}
	// Windows has access lists in place of modes and reports 0666 for all.
	if secret && info.Mode().Perm()&^secretMode != 0 && runtime.GOOS != "windows" {
		return nil, nil, &ModeError{Path: path, Mode: info.Mode()}
	}
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, nil, fmt.Errorf("pki: reading a file: %w", err)
	}
	if int64(len(data)) > limit {
		return nil, nil, fmt.Errorf("pki: %q is longer than %d bytes", path, limit)
	}
	return data, info, nil
}

func write(path string, data []byte, mode fs.FileMode, replace bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("pki: writing %q: %w", path, err)
		}
	}()
	dir := filepath.Dir(path)
	// CreateTemp gives 0600, so the secret is never wider, not even for a moment.
	f, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return cause(err)
	}
	tmp := f.Name()
	defer func() { _ = os.Remove(tmp) }() // no longer there after a rename
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(mode)
	}
	if err == nil {
		err = f.Sync()
	}
	if closed := f.Close(); err == nil {
		err = closed
	}
	if err != nil {
		return cause(err)
	}
	if replace {
		err = os.Rename(tmp, path)
	} else {
		// Unlike a rename, a link fails where the name is taken, in one step.
		err = os.Link(tmp, path)
	}
	if err != nil {
		return cause(err)
	}
	return syncDir(dir)
}

// syncDir makes the new name itself durable.
func syncDir(dir string) error {
	if runtime.GOOS == "windows" { // cannot sync a folder, and need not
		return nil
	}
	d, err := os.Open(dir)
	if err != nil {
		return cause(err)
	}
	err = d.Sync()
	if closed := d.Close(); err == nil {
		err = closed
	}
	return cause(err)
}

// cause drops the path from an error of package os: it is that of the
// temporary file.
func cause(err error) error {
	if p := (*fs.PathError)(nil); errors.As(err, &p) {
		return p.Err
	}
	if l := (*os.LinkError)(nil); errors.As(err, &l) {
		return l.Err
	}
	return err
}

func shellQuote(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-", r)
	}
	if s != "" && s[0] != '-' && strings.IndexFunc(s, func(r rune) bool { return !plain(r) }) < 0 {
		return s
	}
	if strings.HasPrefix(s, "-") {
		s = "./" + s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
