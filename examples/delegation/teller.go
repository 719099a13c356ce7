package main

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/sealmesh/sealmesh/denial"
)

// teller prints what happens and remembers what should not have.
type teller struct {
	within time.Duration // how fast a right must be gone once it was taken back
	out    io.Writer
	wrong  []string
	number int
}

func (t *teller) chapter(title string) { fmt.Fprintf(t.out, "\n%s\n", title) }

func (t *teller) line(what, outcome string, right bool) {
	t.number++
	mark := "ok"
	if !right {
		mark = "WRONG"
		t.wrong = append(t.wrong, fmt.Sprintf("step %d, %s: %s", t.number, what, outcome))
	}
	fmt.Fprintf(t.out, "%3d  %-58s %-46s %s\n", t.number, what, outcome, mark)
}

// works says that a step must succeed.
func (t *teller) works(what, outcome string, err error) {
	if err != nil {
		outcome = err.Error()
	}
	t.line(what, outcome, err == nil)
}

// refused says that a step must be refused, for one of these reasons: whoever
// hears of a cut first is the one who refuses.
func (t *teller) refused(what string, err error, reasons ...denial.Reason) {
	switch got := denial.Of(err); {
	case err == nil:
		t.line(what, "was let through", false)
	case got == "":
		t.line(what, err.Error(), false)
	default:
		t.line(what, "refused: "+string(got), slices.Contains(reasons, got))
	}
}

// fast says that a step must not have taken longer than t.within.
func (t *teller) fast(what string, took time.Duration) {
	t.line(what, took.Round(time.Millisecond).String(), took <= t.within)
}

// end returns what went wrong.
func (t *teller) end() error {
	switch {
	case t.number == 0:
		return errors.New("nothing was told")
	case len(t.wrong) > 0:
		return fmt.Errorf("%d of %d steps went wrong:\n%s", len(t.wrong), t.number, strings.Join(t.wrong, "\n"))
	}
	fmt.Fprintf(t.out, "\nall %d steps went as they should\n", t.number)
	return nil
}
