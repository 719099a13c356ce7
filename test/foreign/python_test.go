//go:build unix

package foreign_test

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// A handler in Python answers verified calls, knows for whom and until when, and what
// it writes of an error stays with it.
func TestPython(t *testing.T) {
	w := start(t)
	if _, err := exec.LookPath("python3"); err != nil {
		t.Fatal("needs Python 3 in the path: ", err)
	}
	script, err := filepath.Abs("../../examples/python/words.py")
	if err != nil {
		t.Fatal(err)
	}
	w.Must("agent", "add", "counter", "--handle", "count:words", "--enroll")
	w.Must("agent", "add", "asker", "--call", "count:words", "--enroll")
	handler := w.Run("handle", "--as", "counter", "count:words", "--", "python3", script)
	handler.AwaitLog(`"message":"handling"`)
	var got struct {
		For, Scope string
		Until      time.Time
		Words      int
	}
	answer := w.Must("call", "--as", "asker", "--timeout", "20s", "count:words", "to be or not to be")
	if err := json.Unmarshal([]byte(answer), &got); err != nil {
		t.Fatalf("%v: %s", err, answer)
	}
	if got.For != "asker" || got.Scope != "count:words" || got.Words != 6 || time.Until(got.Until) > 20*time.Second || time.Until(got.Until) < 0 {
		t.Errorf("got %+v", got)
	}
	r := w.Do("call", "--as", "asker", "count:words", "   ")
	if r.Code != 1 || !strings.Contains(r.Stderr, "app-exit") || strings.Contains(r.Stdout+r.Stderr, "nothing to count") {
		t.Errorf("an error of the program: got %d\n%s%s", r.Code, r.Stdout, r.Stderr)
	}
	handler.AwaitLog("nothing to count")
}
