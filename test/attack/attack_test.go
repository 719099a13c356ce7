package attack_test

import (
	"fmt"
	"slices"
	"testing"
	"time"
)

// all are the attempts, in the order in which they are made.
func all(a *arena) []attempt {
	return slices.Concat(listening(a), speaking(a), storing(a), consuming(a), deputies(a), connecting(a))
}

// settled is how long the server is given to do what it was asked and must not
// do. Every attempt is followed by honest traffic on the same server as well, and
// the state is looked at once more after the last.
const settled = 20 * time.Millisecond

// Attacks 36 to 42, in the mesh: nothing is won.
func TestBroker(t *testing.T) {
	a := inMesh(t)
	if err := a.round(a.mark()); err != nil {
		t.Fatalf("honest agents before any attack: %v", err)
	}
	before, err := a.state()
	if err != nil {
		t.Fatal(err)
	}
	covered := map[int]int{}
	for _, at := range all(a) {
		for _, n := range at.covers {
			covered[n]++
		}
		t.Run(at.name, func(t *testing.T) {
			x := at.make(t, a)
			time.Sleep(settled)
			for _, l := range at.loot(x) {
				t.Errorf("won: %s", l)
			}
			mark := a.mark()
			if err := a.round(mark); err != nil {
				t.Errorf("honest agents after it: %v", err)
			}
			if x.ear != nil && x.ear.find(anything) != nil {
				t.Errorf("won: mallory heard honest traffic")
			}
			x.m.Close()
		})
	}
	// What the server did later than each attempt could wait for.
	after, err := a.state()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range before.changes(after) {
		if !a.said(c) {
			t.Errorf("after all: %s", c)
		}
	}
	x, want := &try{arena: a, t: t}, uint64(a.rounds.Load())
	if !within(wait, func() bool { return x.stored("mesh.event.alice.news") == want }) {
		t.Errorf("%d events of alice are stored, and she said %d", x.stored("mesh.event.alice.news"), want)
	}
	for n := 36; n <= 42; n++ {
		if covered[n] == 0 {
			t.Errorf("no attempt covers attack %d", n)
		}
	}
	t.Logf("attempts by attack: %v", covered)
}

// The control run: the same attempts win where a first deployment of plain NATS
// leaves them open.
func TestBrokerControl(t *testing.T) {
	c := naive(t)
	c.reset(t)
	if err := c.round(c.mark()); err != nil {
		t.Fatalf("honest agents before any attack: %v", err)
	}
	for _, at := range all(c.arena) {
		t.Run(at.name, func(t *testing.T) {
			c.reset(t)
			// Something of everybody's to take.
			if err := c.round(c.mark()); err != nil {
				t.Fatalf("honest agents before it: %v", err)
			}
			x := at.make(t, c.arena)
			defer x.m.Close()
			if at.hears {
				// Which may well fail now.
				_ = c.round(c.mark())
			}
			if !within(wait, func() bool { return at.control(x) }) {
				after, err := x.state()
				t.Errorf("INCONCLUSIVE: %s; changes %v, %v", describe(x), x.before.changes(after), err)
			}
		})
	}
}

// describe tells of what came of an attempt that should have won.
func describe(x *try) string {
	text := fmt.Sprintf("as far as the client knows: %v", x.m.LastError())
	if x.inbox != nil {
		for _, m := range x.inbox.all() {
			text += fmt.Sprintf("; answered %v %.1200q", m.Header, m.Data)
		}
	}
	for _, m := range x.carol.all() {
		text += fmt.Sprintf("; carol heard %s %v %.100q", m.Subject, m.Header, m.Data)
	}
	return text
}
