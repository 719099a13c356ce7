package meshclient

import (
	"context"
	"iter"
	"sync/atomic"

	"github.com/sealmesh/sealmesh/internal/limits"
)

// Stream makes a call and yields the parts of its answer as they come: what the
// handler sent while it worked ([Request.Send]) and then, with Last set, what it
// returned. An error ends it and says, like that of [Mesh.Call], why there is no
// whole answer; without one the answer is whole: every part came, once, in order,
// of one handler. The call is made when the loop begins, once for each loop, and
// leaving the loop cancels it. A handler that is faster than the loop waits.
//
//	for part, err := range mesh.Stream(ctx, "write:story", prompt) {
//		if err != nil {
//			return err
//		}
//		os.Stdout.Write(part.Data)
//	}
func (m *Mesh) Stream(ctx context.Context, scope string, data []byte, opts ...CallOption) iter.Seq2[*Reply, error] {
	return func(yield func(*Reply, error) bool) {
		call, err := m.outgoing(scope, data, opts)
		if err != nil {
			yield(nil, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		call.parts = &parts{ready: make(chan *Reply, heldMost), taken: make(chan struct{}, 1)}
		var last *Reply
		done := make(chan struct{})
		go func() {
			defer close(done)
			last, err = m.call(ctx, call)
		}()
		for {
			part, ok := call.parts.next(done)
			if !ok {
				break
			}
			if !yield(part, nil) {
				cancel()
				<-done // its log line is written, and the handler told
				return
			}
		}
		yield(last, err)
	}
}

// parts is what came and was not taken by the application yet.
type parts struct {
	ready chan *Reply
	bytes atomic.Int64 // in ready
	taken chan struct{}
}

// put adds a part. False says that there is no room for it, which whoever keeps to
// what it was told leaves.
func (p *parts) put(part *Reply) bool {
	// Before it is confirmed, a sender has no more under way than it may keep, or a
	// single part; and what is ready is not confirmed once it is that much.
	if p.bytes.Load()+int64(len(part.Data)) > streamBytes+limits.Body {
		return false
	}
	p.bytes.Add(int64(len(part.Data)))
	select {
	case p.ready <- part:
		return true
	default:
		return false
	}
}

// full reports whether the application has to take some before more is asked for.
func (p *parts) full() bool { return p.bytes.Load() >= streamBytes }

// next returns the next part; false says that no more than the end is left.
func (p *parts) next(done <-chan struct{}) (*Reply, bool) {
	select {
	case part := <-p.ready:
		p.took(part)
		return part, true
	case <-done:
	}
	select { // all that came before the end
	case part := <-p.ready:
		return part, true
	default:
		return nil, false
	}
}

func (p *parts) took(part *Reply) {
	p.bytes.Add(-int64(len(part.Data)))
	select {
	case p.taken <- struct{}{}:
	default:
	}
}
