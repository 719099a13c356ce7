package capability_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/internal/jws"
	"github.com/sealmesh/sealmesh/internal/limits"
)

// universe is sorted, so that a subset of it is a sorted list.
var universe = []string{"admin:registry", "handle:read:logs", "publish:builds", "read:logs", "read:logs.app", "write:reports"}

const adminBit = 1

// step is one token as drawn: what its maker wishes, lawful or not.
type step struct {
	to, signer, passport int // agents
	caps, del            int // subsets of the universe
	depth                int
	from, until          int64 // seconds from now
	skip                 bool  // names the token before its parent as the parent
}

// draw makes steps out of bytes, lawful ones more often than not.
func draw(data []byte) []step {
	next := func() int {
		if len(data) == 0 {
			return 0
		}
		b := data[0]
		data = data[1:]
		return int(b)
	}
	const day = 24 * 3600
	n := 1 + next()%4
	out := []step{{to: 0, caps: next() % 64, depth: next() % 10, from: -100, until: day}}
	out[0].del = out[0].caps & next() &^ adminBit
	for i := 1; i < n; i++ {
		p := out[i-1]
		s := step{to: i, signer: p.to, passport: p.to, depth: p.depth - 1 - next()%2, from: p.from + int64(next()%4), until: p.until - int64(next()%4)}
		s.caps = p.del & next()
		s.del = s.caps & next()
		if s.depth <= 0 {
			s.del = 0
		}
		switch next() % 24 { // one thing wrong, now and then, or harmless after all
		case 0:
			s.to = next() % 5
		case 1:
			s.signer = next() % 5
		case 2:
			s.passport = next() % 5
		case 3:
			s.caps |= next() % 64
		case 4:
			s.del |= next() % 64
		case 5:
			s.depth += next() % 4
		case 6:
			s.from -= int64(next() % 8)
		case 7:
			s.until += int64(next() % 8)
		case 8:
			s.from = int64(next() % 3)
		case 9:
			s.until = int64(next()%3) - 1
		case 10:
			s.skip = i > 1
		case 11:
			s.caps = 0
		}
		out = append(out, s)
	}
	return out
}

func subset(mask int) []string {
	list := []string{}
	for i, s := range universe {
		if mask>>i&1 == 1 {
			list = append(list, s)
		}
	}
	return list
}

// lawful is the slow oracle: it asks, for each agent, scope and second around the
// edges, whether the token gives what the one before did not let be given.
func lawful(steps []step) bool {
	for i, s := range steps {
		if s.caps == 0 || s.depth < 0 || s.depth > 8 || s.until <= s.from || s.from > 0 || s.until <= 0 {
			return false
		}
		for bit := range universe {
			mask := 1 << bit
			may := s.del&mask != 0
			if may && (s.caps&mask == 0 || mask == adminBit || s.depth == 0) {
				return false
			}
			if i > 0 && s.caps&mask != 0 && steps[i-1].del&mask == 0 {
				return false
			}
		}
		if i == 0 {
			continue
		}
		p := steps[i-1]
		if s.signer != p.to || s.passport != p.to || s.skip || p.depth-s.depth < 1 {
			return false
		}
		for _, second := range []int64{s.from, s.from + 1, s.until - 2, s.until - 1} {
			if second >= s.from && second < s.until && (second < p.from || second >= p.until) {
				return false
			}
		}
		for _, earlier := range steps[:i] {
			if earlier.to == s.to {
				return false
			}
		}
	}
	return true
}

func name(agent int) string { return fmt.Sprintf("a%d", agent) }

// checkTree signs the steps by hand, and makes them with Delegate as far as it
// lets them be made, and compares both with the oracle. It reports whether the
// whole was lawful.
func checkTree(t *testing.T, w *cast, steps []step) bool {
	t.Helper()
	var docs []string
	var chain *capability.Chain // what came of it while it was lawful
	for i, s := range steps {
		want := lawful(steps[:i+1])
		claims := &tokenClaims{
			Head: jws.Head{Kind: "token", IssuedAt: now.Unix()}, ID: "AAAAAAAAAAAAAAAAAAAAAA",
			Agent: name(s.to), Capabilities: subset(s.caps), Delegatable: subset(s.del), Depth: int64(s.depth),
			NotBefore: now.Unix() + s.from, Expires: now.Unix() + s.until,
		}
		if i == 0 {
			docs = append(docs, signToken(t, w.tokens, claims))
		} else {
			parent := docs[len(docs)-1]
			if s.skip {
				parent = docs[len(docs)-3]
			}
			claims.Parent = jws.Digest(parent)
			docs = append(docs, w.passports[s.passport], signToken(t, w.agents[s.signer], claims))
		}
		text := strings.Join(docs, "~")

		if i > 0 && chain != nil && !s.skip {
			_, err := capability.Delegate(chain, w.agents[s.signer], w.passports[s.passport], capability.Delegation{
				To: agentid.Require(name(s.to)), Scopes: scopes(subset(s.caps)...), Delegatable: scopes(subset(s.del)...), Depth: s.depth,
				NotBefore: now.Add(time.Duration(s.from) * time.Second), Expires: now.Add(time.Duration(s.until) * time.Second),
			}, now)
			// A delegation for later may be made now.
			later := s
			later.from = min(s.from, 0)
			mayMake := want || s.from > 0 && s.until > s.from && lawful(append(slices.Clone(steps[:i]), later))
			if (err == nil) != mayMake {
				t.Fatalf("delegate step %d of %+v: got %v, want made %t", i, steps, err, mayMake)
			}
			if err != nil && denial.Of(err) == "" {
				t.Fatalf("delegate refused without a reason: %v", err)
			}
		}

		c, err := capability.Verify(text, w.ring, now)
		if (err == nil) != want {
			t.Fatalf("verify step %d of %+v: got %v, want lawful %t", i, steps, err, want)
		}
		if err != nil {
			if denial.Of(err) == "" {
				t.Fatalf("refused without a reason: %v", err)
			}
			chain = nil
			continue
		}
		if c.Text() != text {
			t.Fatalf("got text %q, want %q", c.Text(), text)
		}
		// Nothing is granted that any token before did not grant, nor for longer.
		for _, h := range c.Hops() {
			for _, got := range c.Scopes() {
				if !slices.Contains(h.Scopes, got) {
					t.Fatalf("%s has %s, which %s did not", c.Holder(), got, h.To)
				}
			}
			if c.Expires().After(h.Expires) {
				t.Fatalf("%s has it until %s, %s only until %s", c.Holder(), c.Expires(), h.To, h.Expires)
			}
		}
		if c.Depth() > limits.Depth-i {
			t.Fatalf("depth %d is left after %d delegations", c.Depth(), i)
		}
		chain = c
	}
	return lawful(steps)
}

// cast is a world with its agents' keys and passports made beforehand.
type cast struct {
	*world
	agents    []nkeys.KeyPair
	passports []string
}

func newCast(t testing.TB) *cast {
	t.Helper()
	c := &cast{world: newWorld(t)}
	for i := range 5 {
		c.agents = append(c.agents, c.agent(name(i)))
		c.passports = append(c.passports, c.passport(name(i)))
	}
	return c
}

func TestAttenuationNeverWidens(t *testing.T) {
	w := newCast(t)
	r := rand.New(rand.NewPCG(1, 2))
	kept := map[bool]int{}
	for range 400 {
		data := make([]byte, 48)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		steps := draw(data)
		if ok := checkTree(t, w, steps); len(steps) > 1 {
			kept[ok]++
		}
	}
	if kept[true] < 25 || kept[false] < 25 {
		t.Errorf("got %d lawful and %d unlawful delegation trees, too few to show anything", kept[true], kept[false])
	}
}

// FuzzAttenuation: no chain that can be signed gives more than the one before
// it, and Verify and Delegate agree with the slow oracle on which may be.
func FuzzAttenuation(f *testing.F) {
	w := newCast(f)
	kept := map[bool]int{}
	seed := func(data []byte) {
		f.Add(data)
		if steps := draw(data); len(steps) > 1 {
			kept[lawful(steps)]++
		}
	}
	seed(nil)
	// Four tokens; then one thing wrong in the second and in the last of them, or
	// wrong in name only.
	const all, nothing = 0xff, 23
	hop := func(wrong, how byte) []byte { return []byte{0, 0, 0, all, all, wrong, how} }
	for wrong := range byte(12) {
		for how := range byte(5) {
			root := []byte{3, 0x3f, 8, 0x3d}
			seed(slices.Concat(root, hop(wrong, how), hop(nothing, 0)[:6], hop(nothing, 0)[:6]))
			seed(slices.Concat(root, hop(nothing, 0)[:6], hop(nothing, 0)[:6], hop(wrong, how)))
		}
	}
	for depth := range byte(10) {
		seed(slices.Concat([]byte{3, 0x3e, depth, 0x3e}, hop(nothing, 0)[:6], hop(nothing, 0)[:6], hop(nothing, 0)[:6]))
	}
	if kept[true] < 10 || kept[false] < 30 {
		f.Fatalf("got %d lawful and %d unlawful seeds, too few to show anything", kept[true], kept[false])
	}
	f.Fuzz(func(t *testing.T, data []byte) { checkTree(t, w, draw(data)) })
}

// FuzzChain: a text that verifies is one of those that were made, to the byte,
// and prints as it was read.
func FuzzChain(f *testing.F) {
	w := newWorld(f)
	forged := w.forge()
	for i, c := range forged.tokens { // alike in every process that fuzzes
		c.ID = strings.Repeat("A", 20) + string(rune('A'+i)) + "A"
	}
	docs := strings.Split(forged.text(), "~")
	made := map[string]bool{}
	for n := 1; n <= len(docs); n += 2 {
		text := strings.Join(docs[:n], "~")
		made[text] = true
		f.Add(text)
	}
	whole := strings.Join(docs, "~")
	f.Add(whole + "\n")
	f.Add(whole + "~")
	f.Add(strings.Join(docs[2:], "~"))
	f.Add(whole[:len(whole)-1] + "B")
	f.Fuzz(func(t *testing.T, text string) {
		c, err := capability.Verify(text, w.ring, now)
		switch {
		case err != nil && denial.Of(err) == "":
			t.Fatalf("refused without a reason: %v", err)
		case err == nil && c.Text() != text:
			t.Fatalf("got %q, want %q", c.Text(), text)
		case err == nil && !made[text]:
			t.Fatalf("a second text verifies: %q", text)
		}
	})
}
