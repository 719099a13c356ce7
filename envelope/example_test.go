package envelope_test

import (
	"crypto/ed25519"
	"fmt"
	"time"

	"github.com/nats-io/nkeys"

	"github.com/sealmesh/sealmesh/agentid"
	"github.com/sealmesh/sealmesh/denial"
	"github.com/sealmesh/sealmesh/envelope"
	"github.com/sealmesh/sealmesh/internal/subject"
)

// exampleKey is a new key and what the registry would know of it.
func exampleKey() (*envelope.Key, ed25519.PublicKey) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		panic(err)
	}
	seed, err := nkeys.EncodeSeed(nkeys.PrefixByteUser, private.Seed())
	if err != nil {
		panic(err)
	}
	key, err := envelope.NewKey(seed)
	if err != nil {
		panic(err)
	}
	return key, public
}

// One call, its reply, and what happens to copies and alterations.
func Example() {
	now := time.UnixMilli(1795408791123)
	writerKey, writerPublic := exampleKey()
	readerKey, readerPublic := exampleKey()
	writer, reader := agentid.Require("writer"), agentid.Require("reader")
	space := subject.Default()

	// The writer asks.
	ask := envelope.Fields{
		From: writer, Time: now, Nonce: envelope.NewNonce(), Correlation: envelope.NewCorrelation(),
		Epoch: envelope.Epoch{Agent: 1, Instance: 1}, Deadline: 30 * time.Second,
	}
	to := space.Call(writer, "read.logs")
	header, asked, err := envelope.Sign("mesh.example", writerKey, ask, to, nil, []byte("tail"), nil)
	if err != nil {
		panic(err)
	}

	// A receiver takes the steps in order, cheap ones first.
	memory, _ := envelope.NewMemory(envelope.MemoryConfig{Window: envelope.DefaultWindow(), Since: now})
	receive := func(m envelope.Message) (*envelope.Verified, error) {
		u, err := envelope.Parse(m)
		if err != nil {
			return nil, err
		}
		if _, err := u.CheckSubject(space); err != nil {
			return nil, err
		}
		if err := u.CheckTime(now, envelope.DefaultWindow()); err != nil {
			return nil, err
		}
		if err := memory.Seen(u, envelope.MemoryOnly, now); err != nil {
			return nil, err
		}
		v, err := u.Verify("mesh.example", writerPublic, nil) // the key of the registry's record
		if err != nil {
			return nil, err
		}
		return v, memory.Use(v, envelope.MemoryOnly, now)
	}
	altered := envelope.Message{Subject: to, Header: header, Data: []byte("rm")}
	_, err = receive(altered)
	fmt.Println("altered: ", denial.Of(err))

	message := envelope.Message{Subject: to, Header: header, Data: []byte("tail")}
	request, err := receive(message)
	fmt.Println("received:", request.From(), string(request.Data()), err)

	_, err = receive(message)
	fmt.Println("again:   ", denial.Of(err))

	// The reply is bound to the request's nonce and to its bytes.
	digest := request.Digest()
	answer := envelope.Fields{
		From: reader, Time: now, Nonce: envelope.NewNonce(), Correlation: request.Fields().Correlation,
		Parent: request.Fields().Nonce, Epoch: envelope.Epoch{Agent: 1, Instance: 1},
	}
	back := space.Reply(reader, writer, request.Instance(), answer.Parent)
	header, _, err = envelope.Sign("mesh.example", readerKey, answer, back, nil, []byte("line 7"), &digest)
	if err != nil {
		panic(err)
	}
	reply, err := envelope.Parse(envelope.Message{Subject: back, Header: header, Data: []byte("line 7")})
	if err != nil {
		panic(err)
	}
	_, err = reply.Verify("mesh.example", readerPublic, &envelope.Digest{7})
	fmt.Println("reply to another request:", denial.Of(err))
	v, err := reply.Verify("mesh.example", readerPublic, &asked)
	fmt.Println("reply to this one:       ", string(v.Data()), err)

	// Output:
	// altered:  bad-signature
	// received: writer tail <nil>
	// again:    replayed
	// reply to another request: bad-signature
	// reply to this one:        line 7 <nil>
}

func ExampleParse_refused() {
	_, err := envelope.Parse(envelope.Message{Subject: "mesh.call.writer.read.logs", Data: []byte("tail")})
	fmt.Println(err)
	// Output: bad-envelope: 0 Mesh-Envelope headers
}

func ExampleStream() {
	var s envelope.Stream
	fmt.Println(s.Next(nil), s.Done())
	// Output: broken-stream: not a part of a stream false
}

func ExamplePart_String() {
	fmt.Println(envelope.Part{Number: 3}, envelope.Part{Number: 7, Last: true})
	// Output: 3 7/7
}
