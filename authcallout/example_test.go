package authcallout_test

import (
	"fmt"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/authcallout"
	"github.com/sealmesh/sealmesh/capability"
	"github.com/sealmesh/sealmesh/internal/subject"
)

func ExampleCompile() {
	grant, err := authcallout.Compile(subject.Default(), authcallout.Subject{
		Agent:    agentid.Require("reader"),
		Instance: agentid.InstanceOf("UREADER"),
		Scopes:   []capability.Scope{capability.RequireScope("handle:read:logs")},
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, listen := grant.Allows("mesh.call.*.read.logs", false)
	_, spoof := grant.Allows("mesh.reply.writer.admin.00000000.n", true)
	fmt.Println("listen in on calls:", listen, "- answer as somebody else:", spoof)

	line, _ := grant.Allows("mesh.call.*.read.logs read.logs", false)
	fmt.Println("take calls:", line.Subject, "in queue", line.Queue, "because of", line.From)
	// Output:
	// listen in on calls: false - answer as somebody else: false
	// take calls: mesh.call.*.read.logs in queue read.logs because of handle:read:logs
}
