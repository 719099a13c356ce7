//go:build unix

package pki_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/sealmesh/sealmesh/internal/limits"
	"github.com/sealmesh/sealmesh/pki"
)

func mode(t *testing.T, path string) fs.FileMode {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Mode().Perm()
}

func TestWriteSecret(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.nk")
	if err := pki.WriteSecret(path, []byte("one")); err != nil {
		t.Fatal(err)
	}
	if got := mode(t, path); got != 0o600 {
		t.Errorf("got mode %o, want 600", got)
	}
	err := pki.WriteSecret(path, []byte("two"))
	if !errors.Is(err, fs.ErrExist) {
		t.Errorf("got %v, want %v", err, fs.ErrExist)
	}
	if got := must(pki.ReadSecret(path)); string(got) != "one" {
		t.Errorf("the refused write left %q", got)
	}
	// A dangling link counts as taken: a write through it would land elsewhere.
	link := filepath.Join(dir, "link")
	if err := os.Symlink(filepath.Join(dir, "elsewhere"), link); err != nil {
		t.Fatal(err)
	}
	if err := pki.WriteSecret(link, []byte("x")); !errors.Is(err, fs.ErrExist) {
		t.Errorf("link: got %v, want %v", err, fs.ErrExist)
	}
	if err := pki.ReplaceSecret(path, []byte("two")); err != nil {
		t.Fatal(err)
	}
	if got := must(pki.ReadSecret(path)); string(got) != "two" {
		t.Errorf("got %q, want the replaced secret", got)
	}
	// Replacing narrows what somebody had opened.
	if err := os.Chmod(path, 0o644); err != nil {
		t.Fatal(err)
	}
	if err := pki.ReplaceSecret(path, []byte("three")); err != nil || mode(t, path) != 0o600 {
		t.Errorf("got %v, mode %o; want 600", err, mode(t, path))
	}
	err = pki.WriteSecret(filepath.Join(dir, "none", "x"), nil)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing folder: got %v, want %v", err, fs.ErrNotExist)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("got %d entries, %v; want no temporary file left", len(entries), err)
	}
}

func TestWriteSecretOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "seed")
	var won atomic.Int32
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			if pki.WriteSecret(path, bytes.Repeat([]byte{byte('a' + i)}, 1000)) == nil {
				won.Add(1)
			}
		})
	}
	wg.Wait()
	if won.Load() != 1 {
		t.Errorf("got %d winners, want 1", won.Load())
	}
	got := must(pki.ReadSecret(path))
	if len(got) != 1000 || len(bytes.Trim(got, string(got[0]))) != 0 {
		t.Error("the file is mixed from several writes")
	}
}

// TestWriteFileUmask is not parallel: the umask belongs to the process.
func TestWriteFileUmask(t *testing.T) {
	defer syscall.Umask(syscall.Umask(0o077))
	path := filepath.Join(t.TempDir(), "ca.crt")
	for _, text := range []string{"one", "two"} {
		if err := pki.WriteFile(path, []byte(text)); err != nil {
			t.Fatal(err)
		}
		if got := must(os.ReadFile(path)); string(got) != text {
			t.Errorf("got %q, want %q", got, text)
		}
		if got := mode(t, path); got != 0o644 {
			t.Errorf("got mode %o, want 644", got)
		}
	}
}

func TestReadSecretModes(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "agent.nk")
	if err := pki.WriteSecret(path, []byte("canary-4711")); err != nil {
		t.Fatal(err)
	}
	for _, m := range []fs.FileMode{0o600, 0o400} {
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ReadSecret(path); err != nil {
			t.Errorf("mode %o: %v", m, err)
		}
	}
	for _, m := range []fs.FileMode{0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o700, 0o644, 0o777} {
		if err := os.Chmod(path, m); err != nil {
			t.Fatal(err)
		}
		got, err := pki.ReadSecret(path)
		var wide *pki.ModeError
		if got != nil || !errors.As(err, &wide) || !errors.Is(err, fs.ErrPermission) {
			t.Fatalf("mode %o: got %q, %v", m, got, err)
		}
		if want := "chmod 600 " + path; wide.Hint() != want || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("got hint %q in %q, want %q", wide.Hint(), err, want)
		}
		if !strings.Contains(err.Error(), fmt.Sprintf("%04o", m)) || strings.Contains(err.Error(), "canary") {
			t.Errorf("got %q", err)
		}
	}
	// The hint can be pasted whatever the name.
	for name, want := range map[string]string{"a b": "'a b'", "a'b": `'a'\''b'`, "-x": "'./-x'", "a$(b)": "'a$(b)'", "plain_1.nk": "plain_1.nk"} {
		if got := (&pki.ModeError{Path: name, Mode: 0o644}).Hint(); got != "chmod 600 "+want {
			t.Errorf("got %s, want chmod 600 %s", got, want)
		}
	}
}

func TestReadSecretKinds(t *testing.T) {
	dir := t.TempDir()
	if _, err := pki.ReadSecret(dir); err == nil {
		t.Error("read a folder")
	}
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pki.ReadSecret(pipe); err == nil {
		t.Error("read a pipe")
	}
	if _, err := pki.ReadSecret(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v, want %v", err, fs.ErrNotExist)
	}
	path := filepath.Join(dir, "long")
	for n, ok := range map[int]bool{limits.SecretFile: true, limits.SecretFile + 1: false} {
		if err := pki.ReplaceSecret(path, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
		if _, err := pki.ReadSecret(path); (err == nil) != ok {
			t.Errorf("%d bytes: got %v, want accepted %v", n, err, ok)
		}
	}
}
