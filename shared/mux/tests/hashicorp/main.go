// The other end of a test: hashicorp's yamux, as Debian packages it.
//
// main ROLE echo ADDRESS: echoes every stream, and ends its direction when the other side has.
// main ROLE ask ADDRESS SIZE...: opens a stream for each size, sends as many bytes, expects them back, and closes. It
// cannot half-close: with this package whoever closes reads an end at once.
package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"

	"github.com/hashicorp/yamux"
)

func main() {
	role, job, address := os.Args[1], os.Args[2], os.Args[3]
	conn, err := net.Dial("tcp", address)
	check(err)
	begin := yamux.Client
	if role == "server" {
		begin = yamux.Server
	}
	session, err := begin(conn, nil)
	check(err)
	if job == "echo" {
		echo(session)
		return
	}
	_, err = session.Ping()
	check(err)
	var asked sync.WaitGroup
	for _, arg := range os.Args[4:] {
		size, err := strconv.Atoi(arg)
		check(err)
		asked.Add(1)
		go func() {
			defer asked.Done()
			ask(session, size)
		}()
	}
	asked.Wait()
	check(session.Close())
}

func echo(session *yamux.Session) {
	for {
		stream, err := session.AcceptStream()
		if err != nil {
			return
		}
		go func() {
			_, err := io.Copy(stream, stream)
			check(err)
			check(stream.Close())
		}()
	}
}

func ask(session *yamux.Session, size int) {
	stream, err := session.OpenStream()
	check(err)
	sent := make([]byte, size)
	for place := range sent {
		sent[place] = byte(place * 31 >> 3)
	}
	go func() {
		_, err := stream.Write(sent)
		check(err)
	}()
	got := make([]byte, size)
	count, err := io.ReadFull(stream, got)
	check(err)
	if !bytes.Equal(got, sent) {
		check(fmt.Errorf("of %d bytes %d came back, or others", size, count))
	}
	check(stream.Close())
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
