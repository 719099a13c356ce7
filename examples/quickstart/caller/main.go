// Command caller makes one call and prints the verified answer.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	"github.com/sealmesh/sealmesh/meshclient"
)

func main() {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	if err := run(ctx); err != nil {
		log.Fatalln("caller:", err)
	}
}

func run(ctx context.Context) error {
	mesh, err := meshclient.Connect(ctx, meshclient.As("asker"))
	if err != nil {
		return err
	}
	reply, err := mesh.Call(ctx, "read:logs", []byte("app.log"))
	if err == nil {
		fmt.Printf("%s: %s\n", reply.From, reply.Data)
	}
	return errors.Join(err, mesh.Close())
}
