package heartbeat

import (
	"container/heap"
	"time"
)

// queue orders watches by their due time. A due time may lie too early, never
// too late: a beat only notes when it came, and the deadline is put right when
// it surfaces, so that observing a beat costs no heap operation.
type queue struct{ items []*watch }

func (q *queue) Len() int           { return len(q.items) }
func (q *queue) Less(i, j int) bool { return q.items[i].due < q.items[j].due }
func (q *queue) Swap(i, j int) {
	q.items[i], q.items[j] = q.items[j], q.items[i]
	q.items[i].index, q.items[j].index = i, j
}
func (q *queue) Push(x any) {
	w := x.(*watch)
	w.in, w.index = q, len(q.items)
	q.items = append(q.items, w)
}
func (q *queue) Pop() any {
	last := len(q.items) - 1
	w := q.items[last]
	q.items[last] = nil
	q.items = q.items[:last]
	w.in, w.index = nil, -1
	return w
}

// put queues w for due, moving it there from wherever it was.
func (q *queue) put(w *watch, due time.Duration) {
	w.due = due
	if w.in == q {
		heap.Fix(q, w.index)
		return
	}
	w.dequeue()
	heap.Push(q, w)
}

// first returns the earliest due time.
func (q *queue) first() (time.Duration, bool) {
	if len(q.items) == 0 {
		return 0, false
	}
	return q.items[0].due, true
}

// next takes out the first watch that is due by now, or returns nil.
func (q *queue) next(now time.Duration) *watch {
	if due, ok := q.first(); !ok || due > now {
		return nil
	}
	return heap.Pop(q).(*watch)
}

func (w *watch) dequeue() {
	if w.in != nil {
		heap.Remove(w.in, w.index)
	}
}
