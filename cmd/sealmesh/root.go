package main

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/rs/zerolog"
	"github.com/spf13/cobra"
)

// The groups of verbs in the help text.
const (
	groupMesh  = "mesh"
	groupAgent = "agent"
	groupShell = "shell"
	groupSee   = "see"
)

func newRoot(a *app) *cobra.Command {
	root := group("sealmesh", "Cryptographic trust for agents that talk over NATS")
	root.Long = root.Short + `.

Exit codes: 0 ok, 1 failed, 2 usage, 3 denied (do not retry), 4 unavailable or
too late (retry).`
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error { return usage(c, "%w", err) })
	root.PersistentPreRunE = a.settle

	f := root.PersistentFlags()
	f.StringVar(&a.mesh, "mesh", "", "mesh directory (default $SEALMESH_MESH, then ./mesh)")
	f.StringVar(&a.as, "as", "", "agent to act as: an ID, or a path with a slash (default $SEALMESH_AS)")
	f.BoolVar(&a.json, "json", a.json, "print JSON, errors too")
	f.DurationVar(&a.timeout, "timeout", 0, "give up after this time, for example 30s")
	f.StringVar(&a.logLevel, "log-level", "", "trace, debug, info, warn, error or disabled: JSON lines on standard error")
	f.BoolVarP(&a.verbose, "verbose", "v", false, "log at level info")

	for _, g := range []struct {
		id, title string
		verbs     []*cobra.Command
	}{
		{groupMesh, "Run a mesh:", []*cobra.Command{newInit(a), newUp(a), newServer(a), newNATS(a), newDemo(a), newEmergency(a), newCA(a), newKeys(a)}},
		{groupAgent, "Keep its agents:", []*cobra.Command{newAgent(a), newTopic(a), newEnroll(a), newDiff(a), newApply(a), newExport(a), newToken(a), newCert(a)}},
		{groupShell, "Be an agent from a shell:", []*cobra.Command{newCall(a), newHandle(a), newPublish(a), newSubscribe(a)}},
		{groupSee, "See what is there:", []*cobra.Command{newStatus(a), newTrace(a), newWhy(a), newDoctor(a), newMonitor(a), newCan(a), newExplain(a), newLint(a), newBench(a), newVersion(a)}},
	} {
		root.AddGroup(&cobra.Group{ID: g.id, Title: g.title})
		for _, v := range g.verbs {
			v.GroupID = g.id
			root.AddCommand(v)
		}
	}
	return root
}

// settle completes the global flags from the environment.
func (a *app) settle(c *cobra.Command, _ []string) error {
	a.mesh = cmp.Or(a.mesh, a.getenv("SEALMESH_MESH"), defaultMesh)
	a.as = cmp.Or(a.as, a.getenv("SEALMESH_AS"))
	if a.timeout < 0 {
		return usage(c, "--timeout must not be negative")
	}
	if a.logLevel != "" {
		level, err := zerolog.ParseLevel(a.logLevel)
		if err != nil {
			return usage(c, "--log-level %q is not trace, debug, info, warn, error or disabled", a.logLevel)
		}
		a.level = level
	}
	return nil
}

const defaultMesh = "mesh"

// group is a command that only has commands.
func group(use, short string, verbs ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{
		Use: use, Short: short,
		Args: cobra.ArbitraryArgs, // else cobra words the errors
		RunE: func(c *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(c, "a command is missing after %s", c.CommandPath())
			}
			err := usage(c, "unknown command %q after %s", args[0], c.CommandPath())
			if near := c.SuggestionsFor(args[0]); len(near) > 0 {
				err.hint = "did you mean " + strings.Join(near, " or ")
			}
			return err
		},
	}
	c.SuggestionsMinimumDistance = 2
	c.AddCommand(verbs...)
	return c
}

// takes accepts least to most arguments; words names them.
func takes(least, most int, words string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= most {
			return nil
		}
		if most == 0 {
			return usage(c, "%s takes no arguments", verb(c))
		}
		return usage(c, "%s takes %s", verb(c), words)
	}
}

// verb is the name of a command as error lines, which begin with that of the
// program, say it.
func verb(c *cobra.Command) string {
	return strings.TrimPrefix(c.CommandPath(), c.Root().Name()+" ")
}

// suggest is a sealmesh command to type next, for the same mesh directory.
func (a *app) suggest(format string, args ...any) string {
	s := "sealmesh " + fmt.Sprintf(format, args...)
	if a.mesh != "" && a.mesh != defaultMesh && a.mesh != "./"+defaultMesh && a.getenv("SEALMESH_MESH") != a.mesh {
		s += " --mesh " + quoted(a.mesh)
	}
	return s
}

// quoted makes one word of s for a shell.
func quoted(s string) string {
	plain := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+:@%", r)
	}
	if s != "" && !strings.ContainsFunc(s, func(r rune) bool { return !plain(r) }) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}
