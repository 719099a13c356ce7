package epochlog_test

import (
	"bufio"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/rs/zerolog"

	"github.com/sealmesh/sealmesh/internal/epochlog"
	"github.com/sealmesh/sealmesh/pki"
	"github.com/sealmesh/sealmesh/registry"
)

func open(t *testing.T, dir string) *epochlog.Log {
	t.Helper()
	l, err := epochlog.Open(dir, zerolog.Nop())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

func closed(t *testing.T, l *epochlog.Log) {
	t.Helper()
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func path(dir string) string { return filepath.Join(dir, epochlog.File) }

func text(t *testing.T, dir string) string {
	t.Helper()
	b, err := os.ReadFile(path(dir))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func write(t *testing.T, dir, text string) {
	t.Helper()
	if err := os.WriteFile(path(dir), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, got, want map[string]registry.Floor) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// What was kept is there after a start, the newest of each record, and nothing
// falls.
func TestRemembers(t *testing.T) {
	dir := t.TempDir() + "/state"
	l := open(t, dir)
	l.Remember("bob", registry.Floor{Epoch: 1, Revision: 1, Status: "pending"})
	l.Remember("bob", registry.Floor{Epoch: 3, Revision: 9, Status: "revoked"})
	l.Remember("bob", registry.Floor{Epoch: 2, Revision: 4, Status: "active"})
	for key, status := range map[string]string{"": "", "Bob": "", "bob ": "", "bob.x": "", "bob\n": "", "erin": "not so"} {
		l.Remember(key, registry.Floor{Epoch: 1, Revision: 1, Status: status})
	}
	l.Remember("bob.34n819aq", registry.Floor{Epoch: 1, Revision: 2, Status: "online"})
	l.Remember(registry.TickKey, registry.Floor{Epoch: 1, Revision: 900})
	l.Remember(registry.TickKey, registry.Floor{Epoch: 2, Revision: 51})
	l.Remember(registry.TickKey, registry.Floor{Epoch: 1, Revision: 901})
	l.Remember(registry.TopicsKey, registry.Floor{Revision: 7})
	if err := l.Keep(); err != nil {
		t.Fatal(err)
	}
	// Kept is not closed: this is what a crash leaves.
	if got := text(t, dir); !strings.Contains(got, "\nbob 3 9 revoked ") {
		t.Errorf("the file holds\n%s", got)
	}
	closed(t, l)
	l = open(t, dir)
	want(t, l.Floors(), map[string]registry.Floor{
		"bob": {Epoch: 3, Revision: 9, Status: "revoked"}, "bob.34n819aq": {Epoch: 1, Revision: 2, Status: "online"},
		registry.TickKey: {Epoch: 2, Revision: 51}, registry.TopicsKey: {Revision: 7},
	})
}

// What nobody waits for is written a moment later.
func TestFollows(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	l.Remember("bob", registry.Floor{Epoch: 1, Revision: 1})
	for end := time.Now().Add(20 * time.Second); !strings.Contains(text(t, dir), "\nbob 1 1 - "); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not written; the file holds\n%s", text(t, dir))
		}
	}
}

// A file as it may be found: what a crash leaves is dropped, anything else is an
// error that says what helps.
func TestFoundFiles(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	l.Remember("bob", registry.Floor{Epoch: 2, Revision: 3, Status: "active"})
	l.Remember("carol", registry.Floor{Epoch: 1, Revision: 1, Status: "pending"})
	closed(t, l)
	whole := text(t, dir)
	lines := strings.SplitAfter(whole, "\n")
	head, bob, carol := lines[0], lines[1], lines[2]
	both := []string{"bob", "carol"}
	for name, c := range map[string]struct {
		text string
		keys []string // nil: refused
	}{
		"as it was written":        {whole, both},
		"a torn line":              {whole + carol[:len(carol)/2], both},
		"a line without its break": {head + bob + carol[:len(carol)-1], []string{"bob"}},
		"one byte of a line":       {whole + "c", both},
		"zeros behind it":          {whole + strings.Repeat("\x00", 5000), both},
		"a torn line and zeros":    {head + bob + carol[:5] + strings.Repeat("\x00", 50), []string{"bob"}},
		"a doubled line":           {whole + bob, both},
		"no record":                {head, []string{}},

		"empty":                       {"", nil},
		"half of the header":          {head[:8], nil},
		"no header":                   {bob + carol, nil},
		"another header":              {strings.Replace(whole, "v1", "v2", 1), nil},
		"a changed epoch":             {strings.Replace(whole, "bob 2", "bob 1", 1), nil},
		"a changed status":            {strings.Replace(whole, "active", "revoke", 1), nil},
		"a torn line in the middle":   {head + bob[:9] + carol, nil},
		"a cut line in the middle":    {head + bob[:9] + "\n" + carol, nil},
		"a last line that is changed": {head + bob + strings.Replace(carol, "1 1", "1 0", 1), nil},
		"an empty line":               {head + "\n" + bob, nil},
		"zeros in the middle":         {head + "\x00\x00" + bob, nil},
		"a carriage return":           {strings.ReplaceAll(whole, "\n", "\r\n"), nil},
		"a byte-order mark":           {"\ufeff" + whole, nil},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			write(t, dir, c.text)
			l, err := epochlog.Open(dir, zerolog.Nop())
			if c.keys == nil {
				var e *epochlog.Error
				if !errors.As(err, &e) || e.Hint() == "" || e.Line == 0 {
					t.Fatalf("got %v, want an error that names the line and a hint", err)
				}
				if text(t, dir) != c.text {
					t.Error("a file that was refused was changed")
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if got := l.Floors(); len(got) != len(c.keys) {
				t.Errorf("got %v, want %v", got, c.keys)
			}
			l.Remember("dave", registry.Floor{Epoch: 1, Revision: 1})
			closed(t, l)
			if got := open(t, dir).Floors(); len(got) != len(c.keys)+1 {
				t.Errorf("after a write: got %v, want one more than %v", got, c.keys)
			}
		})
	}
}

func TestCannotBeUsed(t *testing.T) {
	file := t.TempDir() + "/file"
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var e *epochlog.Error
	if _, err := epochlog.Open(file+"/state", zerolog.Nop()); !errors.As(err, &e) || !strings.Contains(e.Hint(), "state") {
		t.Errorf("a directory that cannot be made: got %v, want an error with a hint", err)
	}
	dir := t.TempDir()
	closed(t, open(t, dir))
	if err := os.Chmod(path(dir), 0o644); err != nil {
		t.Fatal(err)
	}
	var mode *pki.ModeError
	if _, err := epochlog.Open(dir, zerolog.Nop()); !errors.As(err, &mode) {
		t.Errorf("a file that others can read: got %v, want a mode error", err)
	}
}

// Many processes on one directory, which write it anew all the time: nothing that
// was kept is lost, whoever renamed the file under whom.
func TestSharedDirectory(t *testing.T) {
	dir := t.TempDir()
	const writers, each = 4, 40
	var wg sync.WaitGroup
	for w := range writers {
		wg.Go(func() {
			l, err := epochlog.Open(dir, zerolog.Nop())
			if err != nil {
				t.Error(err)
				return
			}
			for i := range each {
				l.Remember(fmt.Sprintf("w%d-%d", w, i), registry.Floor{Epoch: 2, Revision: uint64(i) + 1, Status: "suspended"})
				l.Remember("shared", registry.Floor{Epoch: uint64(i*writers+w) + 1, Revision: uint64(i*writers+w) + 1})
				if err := l.Keep(); err != nil {
					t.Error(err)
				}
				if i%8 == w {
					// Each start writes the file anew where anything in it is outdated.
					if err := l.Close(); err != nil {
						t.Error(err)
					}
					if l, err = epochlog.Open(dir, zerolog.Nop()); err != nil {
						t.Error(err)
						return
					}
				}
			}
			if err := l.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	got := open(t, dir).Floors()
	if len(got) != writers*each+1 || got["shared"].Epoch != writers*each {
		t.Errorf("got %d records, the shared one %v, want %d and epoch %d", len(got), got["shared"], writers*each+1, writers*each)
	}
	if n := strings.Count(text(t, dir), "\n"); n != len(got)+1 {
		t.Errorf("the file has %d lines after a start, want %d", n, len(got)+1)
	}
}

// What a process left of a line does not spoil the line of the next, and a file
// that was taken away comes back whole.
func TestMendsWhatOthersLeft(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	keep := func(key string) {
		t.Helper()
		l.Remember(key, registry.Floor{Epoch: 2, Revision: 2})
		if err := l.Keep(); err != nil {
			t.Fatal(err)
		}
	}
	keep("bob")
	f, err := os.OpenFile(path(dir), os.O_WRONLY|os.O_APPEND, 0)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString("carol 2 2 act"); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	keep("dave")
	if got := open(t, dir).Floors(); len(got) != 2 {
		t.Errorf("got %v, want bob and dave", got)
	}
	if err := os.Remove(path(dir)); err != nil {
		t.Fatal(err)
	}
	keep("erin")
	if got := open(t, dir).Floors(); len(got) != 3 {
		t.Errorf("got %v, want all three", got)
	}
}

// The file does not grow without end while the control plane runs.
func TestStaysSmall(t *testing.T) {
	dir := t.TempDir()
	l := open(t, dir)
	most := int64(0)
	for i := range 300 {
		for a := range 100 {
			l.Remember("agent-"+strconv.Itoa(a), registry.Floor{Epoch: 1, Revision: uint64(i) + 1, Status: "active"})
		}
		if err := l.Keep(); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(path(dir))
		if err != nil {
			t.Fatal(err)
		}
		most = max(most, info.Size())
	}
	if most > 3<<20/2 {
		t.Errorf("the file of 100 records grew to %d bytes", most)
	}
	closed(t, l)
	if got := open(t, dir).Floors(); len(got) != 100 || got["agent-7"].Revision != 300 {
		t.Errorf("got %d records, agent-7 in %v", len(got), got["agent-7"])
	}
}

const crashing = "EPOCHLOG_TEST_DIR"

// A process that is killed has lost nothing that it was told was kept, whatever it
// was doing.
func TestKilled(t *testing.T) {
	if dir := os.Getenv(crashing); dir != "" {
		l, err := epochlog.Open(dir, zerolog.Nop())
		if err != nil {
			t.Fatal(err)
		}
		for i := uint64(1); ; i++ {
			l.Remember("bob", registry.Floor{Epoch: i, Revision: i, Status: "suspended"})
			if err := l.Keep(); err != nil {
				t.Fatal(err)
			}
			fmt.Printf("kept %d\n", i)
		}
	}
	dir := t.TempDir()
	for run := range 3 {
		cmd := exec.Command(os.Args[0], "-test.run", "^TestKilled$")
		cmd.Env = append(os.Environ(), crashing+"="+dir)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		var kept uint64
		lines := bufio.NewScanner(out)
		for lines.Scan() {
			if n, ok := strings.CutPrefix(lines.Text(), "kept "); ok {
				if kept, err = strconv.ParseUint(n, 10, 64); err != nil {
					t.Fatal(err)
				}
			}
			if kept == uint64(50+run) {
				if err := cmd.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		_ = cmd.Wait() // killed
		l := open(t, dir)
		if got := l.Floors()["bob"].Epoch; got < kept || kept == 0 {
			t.Errorf("got epoch %d after %d was kept", got, kept)
		}
		closed(t, l)
		write(t, dir, strings.SplitAfter(text(t, dir), "\n")[0]) // the next begins at one
	}
}

// Every file that is read is of lines that this package writes, and reading loses
// none of them.
func FuzzParse(f *testing.F) {
	dir := f.TempDir()
	l, err := epochlog.Open(dir, zerolog.Nop())
	if err != nil {
		f.Fatal(err)
	}
	l.Remember("bob", registry.Floor{Epoch: 2, Revision: 3, Status: "active"})
	l.Remember("bob.34n819aq", registry.Floor{Epoch: 2, Revision: 3})
	l.Remember(registry.TickKey, registry.Floor{Epoch: 1, Revision: 1 << 63})
	if err := l.Close(); err != nil {
		f.Fatal(err)
	}
	b, err := os.ReadFile(path(dir))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add(append(b, 0, 0))
	f.Fuzz(func(t *testing.T, b []byte) {
		floors, good, err := epochlog.Parse(b)
		if err != nil {
			return
		}
		if rest := b[good:]; strings.Contains(strings.Trim(string(rest), "\x00"), "\n") {
			t.Fatalf("whole lines were dropped: %q", rest)
		}
		again, n, err := epochlog.Parse(b[:good])
		if err != nil || n != good || !maps.Equal(again, floors) {
			t.Fatalf("what was read reads again as %v, %d, %v", again, n, err)
		}
		text := string(b[:good])
		for key, f := range floors {
			// Of other records the highest epoch and the highest revision may stand in
			// two lines.
			if line := epochlog.Line(key, f); key == registry.TickKey && !strings.Contains(text, line) {
				t.Fatalf("no line says %q", line)
			}
		}
	})
}
