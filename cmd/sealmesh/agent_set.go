package main

import (
	"github.com/spf13/cobra"

	"github.com/sealmesh/sealmesh/internal/wire"
	"github.com/sealmesh/sealmesh/registry"
)

func newAgentSet(a *app) *cobra.Command {
	var kind, heartbeat, readmit, sessions string
	var labels []string
	var depth int
	var stock bool
	var rule ruleFlags
	c := &cobra.Command{
		Use:   "set ID",
		Short: "Change what an agent is: kind, heartbeat, labels, how deep it may lend",
		Long: `Change the settings of an agent; its rights are changed by grant and ungrant.
What is not named stays. --label names all labels that the agent has from now on;
--label '' takes them away.

A lower --depth ends the root tokens that say more, and with them what was lent
under them. --stock=false closes the agent's connections, which come back for an
hour at a time. --stock sets --heartbeat none unless it is given too: a stock
client sends no beats. --sessions single closes what other hosts have open of one
instance than the one that was there first. The three --join-oidc flags together
say which platform identity enrols instances without a join token; '' for each
takes that back, and leaves those that are enrolled.`,
		Args: takes(1, 1, "ID"),
		RunE: func(c *cobra.Command, args []string) error {
			id, err := agentArg(c, args[0])
			if err != nil {
				return err
			}
			var s wire.Settings
			given := c.Flags().Changed
			if given("kind") {
				k := registry.Kind(kind)
				s.Kind = &k
			}
			if given("heartbeat") {
				h := registry.Heartbeat(heartbeat)
				s.Heartbeat = &h
			}
			if given("readmit") {
				r := registry.Readmit(readmit)
				s.Readmit = &r
			}
			if given("sessions") {
				n := registry.Sessions(sessions)
				s.Sessions = &n
			}
			if given("stock") {
				s.Stock = &stock
			}
			if err := depthArg(c, depth); err != nil {
				return err
			}
			if given("depth") {
				s.Depth = &depth
			}
			if given("label") {
				if len(labels) == 1 && labels[0] == "" {
					labels = nil
				}
				all, err := labelsArg(c, labels)
				if err != nil {
					return err
				}
				s.Labels = &all
			}
			if given, err := rule.given(c); err != nil {
				return err
			} else if given {
				r := rule.rule()
				s.Join = &r
			}
			if s == (wire.Settings{}) {
				return usage(c, "name at least one setting: --kind, --heartbeat, --readmit, --sessions, --label, --depth, --stock or a join rule")
			}
			v, err := operate[wire.AgentView](c.Context(), a, wire.AdminRequest{Op: wire.OpSet, Target: id.String(), Settings: &s})
			if err != nil {
				return err
			}
			if err := a.showAgent(v); err != nil || v.Cut == nil {
				return err
			}
			return a.confirmed(*v.Cut, "it is set, and not every server confirmed that the connections are closed")
		},
	}
	f := c.Flags()
	f.StringVar(&kind, "kind", "", "service, person or job")
	f.StringVar(&heartbeat, "heartbeat", "", "session, always or none")
	f.StringVar(&readmit, "readmit", "", "how it comes back from expired: attestation or manual")
	f.StringVar(&sessions, "sessions", "", "from how many hosts one instance may be connected: any or single")
	f.StringArrayVar(&labels, "label", nil, "name=value; may be given more than once, and replaces all labels")
	f.IntVar(&depth, "depth", 0, "how often its rights may be passed on; 0 is the default, 3")
	rule.register(f)
	f.BoolVar(&stock, "stock", false, "it connects with a stock NATS client, which cannot rotate by itself")
	return c
}
