package meshfile

import (
	"context"
	"fmt"

	"github.com/sealmesh/sealmesh/internal/wire"
)

// Preview asks what the steps of a plan would cut, each by itself, and changes
// nothing. The list has one result for each step that closes connections or may
// end what was lent.
func Preview(ctx context.Context, operate Operate, p *Plan) ([]wire.CutResult, error) {
	var out []wire.CutResult
	for _, s := range p.Steps {
		if !s.takes() {
			if s.Cuts > 0 { // settings that shrink, of which there is no dry run
				out = append(out, wire.CutResult{Schema: wire.CutSchema, Agent: s.Agent(), Cut: s.Cuts, DryRun: true})
			}
			continue
		}
		req := s.Request
		req.DryRun = true
		var cut wire.CutResult
		if err := ask(ctx, operate, req, &cut); err != nil {
			return nil, fmt.Errorf("meshfile: previewing %s %s: %w", s.Kind(), s.name(), err)
		}
		if !cut.DryRun {
			return nil, fmt.Errorf("meshfile: previewing %s %s: it was done, by a control plane that knows no dry run", s.Kind(), s.name())
		}
		out = append(out, cut)
	}
	return out, nil
}
