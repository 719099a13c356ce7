package meshclient

import "github.com/sealmesh/sealmesh/agentid"

// Watched counts the agents of whom somebody in flight has to be told.
func (m *Mesh) Watched() int {
	m.watches.mu.Lock()
	defer m.watches.mu.Unlock()
	return len(m.watches.first)
}

// Hearing counts the agents of whom it is heard whether they go away, and the calls
// for which that is done.
func (m *Mesh) Hearing() (agents, calls int) {
	m.vanishing.mu.Lock()
	defer m.vanishing.mu.Unlock()
	for _, s := range m.vanishing.of {
		calls += s.calls
	}
	return len(m.vanishing.of), calls
}

// Answers counts the answers that are kept.
func (m *Mesh) Answers() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.answers.order.Len()
}

// Watches are calls in flight by number, with nothing behind them.
type Watches struct {
	w     watches
	calls []*numbered
}

type numbered struct {
	watch
	number int
}

func (n *numbered) changed() {}

// Add adds the next call.
func (w *Watches) Add(id agentid.ID) {
	n := &numbered{number: len(w.calls)}
	w.calls = append(w.calls, n)
	w.w.add(&n.watch, id, n)
}

// Drop takes one out, once or more often.
func (w *Watches) Drop(number int) { w.w.drop(&w.calls[number].watch) }

// Changed is told that agents changed; it returns the calls that are to be looked at.
func (w *Watches) Changed(ids ...agentid.ID) (numbers []int) {
	for _, id := range ids {
		w.w.changed(id)
	}
	for {
		all, ok := w.w.next()
		if !ok {
			return numbers
		}
		for _, a := range all {
			numbers = append(numbers, a.(*numbered).number)
		}
	}
}

// Empty reports whether nothing is left.
func (w *Watches) Empty() bool {
	return len(w.w.first) == 0 && w.w.queue == nil && !w.w.looking
}

// OpenParts counts the parts that are kept until somebody confirms them.
func (m *Mesh) OpenParts() (n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, w := range m.works {
		left, _ := w.waiting()
		n += left
	}
	return n
}
