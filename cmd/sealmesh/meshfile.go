package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/internal/meshfile"
	"github.com/sealmesh/sealmesh/internal/subject"
	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/meshclient"
)

// defaultFile is the mesh file where none is named.
const defaultFile = "agents.yaml"

// fileFlag names the mesh file: -f FILE, or FILE as an argument.
type fileFlag struct{ path string }

func (f *fileFlag) register(c *cobra.Command) {
	c.Flags().StringVarP(&f.path, "file", "f", "", "the mesh file; - for standard input (default "+defaultFile+")")
}

func (f *fileFlag) settle(c *cobra.Command, args []string) error {
	switch {
	case len(args) > 0 && f.path != "":
		return usage(c, "%s takes one file: FILE, or --file", verb(c))
	case len(args) > 0:
		f.path = args[0]
	case f.path == "":
		f.path = defaultFile
	}
	return nil
}

// read returns the text of the file and its name for people. What keeps it from
// being read is wrong input: exit code 1 of diff says that there is a difference.
func (f *fileFlag) read(a *app) (name string, text []byte, err error) {
	if name = fileName(f.path); f.path == "-" {
		text, err = readAll(a.stdin, name, meshfile.MaxFile)
	} else {
		text, err = readFile(f.path)
	}
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return name, nil, &usageError{fmt.Errorf("there is no mesh file %s", name), "sealmesh export --out " + quoted(f.path) + " writes what there is"}
	case err != nil:
		return name, nil, &usageError{err, ""}
	}
	return name, text, nil
}

// fileName names the mesh file for people.
func fileName(path string) string {
	if path == "-" {
		return "standard input"
	}
	return clean(path)
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close() //nolint:errcheck // only read
	return readAll(f, path, meshfile.MaxFile)
}

// meshwork is a connection for several admin operations.
type meshwork struct {
	*meshclient.Mesh
	log zerolog.Logger
}

// meshwork connects to compare or change the mesh as a whole.
func (a *app) meshwork(ctx context.Context) (*meshwork, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	log := a.shotLog()
	m, err := a.connect(ctx, adminID, log)
	if err != nil {
		return nil, err
	}
	return &meshwork{m, log}, nil
}

func (w *meshwork) leave() { leave(w.Mesh, w.log) }

// operate is a meshfile.Operate. Each operation has its own time: how many there
// are depends on the file.
func (w *meshwork) operate(ctx context.Context, req wire.AdminRequest) (json.RawMessage, error) {
	ctx, cancel := context.WithTimeout(ctx, adminTimeout)
	defer cancel()
	return operateOn[json.RawMessage](ctx, w.Mesh, req)
}

// wanted reads the mesh file, and then connects.
func (a *app) wanted(ctx context.Context, f *fileFlag) (*meshfile.Mesh, *meshwork, error) {
	name, text, err := f.read(a)
	if err != nil {
		return nil, nil, err
	}
	dir, err := a.find(adminID) // knows which subjects are the mesh's own
	if err != nil {
		return nil, nil, err
	}
	space, err := subject.New(dir.Info.Prefix)
	if err != nil {
		return nil, nil, err
	}
	want, err := meshfile.Parse(name, text, space)
	if err != nil {
		// Whatever is wrong in it, it is wrong input, and no difference.
		var e *meshfile.Error
		errors.As(err, &e)
		return nil, nil, &usageError{err, e.Hint()}
	}
	w, err := a.meshwork(ctx)
	return want, w, err
}

// surplusDoc is what a mesh has and a file does not list.
type surplusDoc struct {
	Agents []agentid.ID `json:"agents"`
	Topics []string     `json:"topics"`
}

func surplusOf(list []meshfile.Change) surplusDoc {
	d := surplusDoc{[]agentid.ID{}, []string{}}
	for _, c := range list {
		if c.Topic != "" {
			d.Topics = append(d.Topics, c.Topic)
		} else {
			d.Agents = append(d.Agents, c.Agent)
		}
	}
	return d
}

// writeSurplus says what --prune would remove.
func writeSurplus(w io.Writer, d surplusDoc) {
	var list []string
	for _, id := range d.Agents {
		list = append(list, "agent "+id.String())
	}
	for _, t := range d.Topics {
		list = append(list, "topic "+t)
	}
	more := ""
	if n := len(list) - mostNamed; n > 0 {
		list, more = list[:mostNamed], fmt.Sprintf(" and %d more, which sealmesh diff --prune shows", n)
	}
	if len(list) > 0 {
		fmt.Fprintf(w, "not in the file, left as it is without --prune: %s%s\n", listed(list), more)
	}
}

// changesOf flattens steps; the list is never nil.
func changesOf(steps []meshfile.Step) []meshfile.Change {
	out := []meshfile.Change{}
	for _, s := range steps {
		out = append(out, s.Changes...)
	}
	return out
}

// changeLine is one change for people.
func changeLine(c meshfile.Change) string {
	what := "agent " + c.Agent.String()
	if c.Topic != "" {
		what = "topic " + c.Topic
	}
	mark := map[meshfile.Kind]string{
		meshfile.Add: "+", meshfile.Grant: "+", meshfile.Remove: "-", meshfile.Ungrant: "-", meshfile.Set: "~", meshfile.Edit: "~",
	}[c.Kind]
	line := mark + " " + what
	switch {
	case c.Field == "":
	case mark == "~":
		line += " " + c.Field + ": " + orNone(c.From) + " -> " + orNone(c.To)
	default:
		line += " " + c.Field + ": " + c.From + c.To
	}
	return clean(line)
}

func orNone(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

func writeChanges(w io.Writer, list []meshfile.Change) {
	for _, c := range list {
		fmt.Fprintln(w, changeLine(c))
	}
}

// joinIDs are IDs for people.
func joinIDs(list []agentid.ID) string {
	out := make([]string, len(list))
	for i, id := range list {
		out[i] = id.String()
	}
	return strings.Join(out, ", ")
}
