package agentdir_test

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sealmesh/sealmesh/internal/agentdir"
	"github.com/sealmesh/sealmesh/internal/floors"
)

var now = time.Unix(1795408791, 0)

func kept(t testing.TB, d *agentdir.Dir) *floors.Set {
	t.Helper()
	s, err := d.Floors()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func keep(t testing.TB, d *agentdir.Dir, s *floors.Set) {
	t.Helper()
	if err := d.KeepFloors(s); err != nil {
		t.Fatal(err)
	}
}

func TestFloors(t *testing.T) {
	d := &agentdir.Dir{Path: t.TempDir()}
	if got := kept(t, d).Len(); got != 0 {
		t.Errorf("got %d floors in a new directory, want none", got)
	}
	s := kept(t, d)
	keep(t, d, s)
	if _, err := os.Stat(d.File(agentdir.StateFile)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file was written that says nothing: %v", err)
	}
	s.Raise("alice", 3, now)
	keep(t, d, s)
	if got := kept(t, d).Epoch("alice"); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
	info, err := os.Stat(d.File(agentdir.StateFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("got mode %v, %v, want 0600", info.Mode(), err)
	}
	// What it says already is not written again.
	keep(t, d, s)
	keep(t, d, kept(t, d))
	if again, err := os.Stat(d.File(agentdir.StateFile)); err != nil || !os.SameFile(info, again) {
		t.Errorf("the file was replaced for nothing (%v)", err)
	}
}

// Processes that share a directory lose nothing of each other.
func TestFloorsOfManyProcesses(t *testing.T) {
	path := t.TempDir()
	const processes, rises = 8, 10
	var wg sync.WaitGroup
	for p := range processes {
		wg.Go(func() {
			d := &agentdir.Dir{Path: path}
			s := kept(t, d)
			for i := range rises {
				s.Raise(fmt.Sprintf("agent-%d-%d", p, i), 2, now)
				s.Raise("shared", uint64(p*rises+i), now)
				if err := d.KeepFloors(s); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	s := kept(t, &agentdir.Dir{Path: path})
	if got, want := s.Len(), processes*rises+1; got != want {
		t.Errorf("got %d floors, want %d", got, want)
	}
	if got, want := s.Epoch("shared"), uint64(processes*rises-1); got != want {
		t.Errorf("got epoch %d, want %d", got, want)
	}
}

// What is there and cannot be used is an error that names the file: a start without
// memory would believe what was revoked. Nor is it written over.
func TestFloorsThatCannotBeUsed(t *testing.T) {
	for name, spoil := range map[string]func(t *testing.T, path string){
		"corrupt": func(t *testing.T, path string) { rewrite(t, path, []byte("{"), 0o600) },
		"empty":   func(t *testing.T, path string) { rewrite(t, path, nil, 0o600) },
		"cut short": func(t *testing.T, path string) {
			b, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			rewrite(t, path, b[:len(b)-3], 0o600)
		},
		"open to others": func(t *testing.T, path string) {
			if err := os.Chmod(path, 0o622); err != nil {
				t.Fatal(err)
			}
		},
		"folder": func(t *testing.T, path string) {
			if err := errors.Join(os.Remove(path), os.Mkdir(path, 0o700)); err != nil {
				t.Fatal(err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &agentdir.Dir{Path: t.TempDir()}
			s := floors.New()
			s.Raise("alice", 3, now)
			keep(t, d, s)
			spoil(t, d.File(agentdir.StateFile))
			_, err := d.Floors()
			var e *agentdir.StateError
			if !errors.As(err, &e) || !strings.Contains(err.Error(), filepath.Join(d.Path, "state.json")) || !strings.Contains(e.Hint(), e.File) {
				t.Fatalf("got %v, want an error and a hint that name the file", err)
			}
			if got := errors.Is(err, fs.ErrPermission); got != (name == "open to others") || got != strings.Contains(e.Hint(), "chmod 600") {
				t.Errorf("got hint %q for %v", e.Hint(), err)
			}
			s.Raise("alice", 4, now)
			if err := d.KeepFloors(s); !errors.As(err, &e) {
				t.Errorf("got %v when writing, want the same error", err)
			}
		})
	}
}

func rewrite(t *testing.T, path string, b []byte, mode fs.FileMode) {
	t.Helper()
	if err := os.WriteFile(path, b, mode); err != nil {
		t.Fatal(err)
	}
}

// A directory that cannot be written is an error, and what is in it still counts.
func TestFloorsOfReadOnlyDirectory(t *testing.T) {
	if os.Getuid() == 0 {
		t.Skip("root writes everywhere")
	}
	d := &agentdir.Dir{Path: t.TempDir()}
	s := floors.New()
	s.Raise("alice", 3, now)
	keep(t, d, s)
	if err := os.Chmod(d.Path, 0o500); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Chmod(d.Path, 0o700) }) //nolint:errcheck // for the clean-up
	s.Raise("alice", 4, now)
	if err := d.KeepFloors(s); err == nil {
		t.Error("nothing was said of a directory that cannot be written")
	}
	if got := kept(t, d).Epoch("alice"); got != 3 {
		t.Errorf("got %d, want 3", got)
	}
}
