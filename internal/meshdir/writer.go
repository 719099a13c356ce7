package meshdir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sealmesh/sealmesh/pki"
)

// writer writes into a directory that was absent or empty and remembers what it
// made, so that a failed Init leaves nothing and takes nothing along.
type writer struct {
	dir   string
	above []string // directories that claim made, outermost first; the last is dir
	made  []string // entries of dir
}

// claim makes the directory or finds it empty. What is wrong with one that is
// not empty, the error says; nothing is changed then.
func claim(dir string) (*writer, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	w := &writer{dir: abs}
	entries, err := os.ReadDir(abs)
	switch {
	case err == nil && len(entries) == 0:
		return w, nil
	case err == nil:
		return nil, occupied(abs)
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("meshdir: %w", err)
	}
	for p := abs; ; p = filepath.Dir(p) {
		if _, err := os.Lstat(p); !errors.Is(err, fs.ErrNotExist) {
			break
		}
		w.above = append(w.above, p)
	}
	slices.Reverse(w.above)
	for i, p := range w.above {
		if err := os.Mkdir(p, 0o700); err != nil {
			w.above = w.above[:i]
			return nil, errors.Join(fmt.Errorf("meshdir: %w", err), w.undo())
		}
	}
	return w, nil
}

func occupied(dir string) error {
	e := &Error{Path: dir, Problem: "is not empty", hint: "name a directory that is absent or empty", cause: fs.ErrExist}
	if _, err := os.Stat(filepath.Join(dir, ConfigFile)); err == nil {
		e.Problem = "holds a mesh already"
		e.hint = "sealmesh up starts it; for another mesh name another directory"
	}
	return e
}

// undo removes what was made. Directories that somebody else put something into
// meanwhile stay.
func (w *writer) undo() error {
	var errs []error
	for _, p := range slices.Backward(w.made) {
		errs = append(errs, os.RemoveAll(p))
	}
	for _, p := range slices.Backward(w.above) {
		if os.Remove(p) != nil {
			break
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("meshdir: cleaning up: %w", err)
	}
	return nil
}

func (w *writer) mkdir(name string) error {
	path := filepath.Join(w.dir, name)
	if err := os.Mkdir(path, 0o700); err != nil {
		return fmt.Errorf("meshdir: %w", err)
	}
	w.made = append(w.made, path)
	return nil
}

func (w *writer) secret(data []byte, elem ...string) error {
	return pki.WriteSecret(w.file(elem), data)
}

func (w *writer) public(data []byte, elem ...string) error {
	return pki.WriteFile(w.file(elem), data)
}

func (w *writer) file(elem []string) string {
	path := filepath.Join(append([]string{w.dir}, elem...)...)
	if len(elem) == 1 {
		w.made = append(w.made, path)
	}
	return path
}
