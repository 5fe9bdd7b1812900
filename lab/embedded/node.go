package embedded

import (
	"fmt"
	"net"
	"strconv"

	"imping/netfast/server"
	"imping/swift/policy"
)

// Node is the server of one node. It needs no Cluster: a process that is given a conf of one
// can serve that node alone.
type Node struct {
	server *server.Server
	done   func() // with its log
	ended  chan struct{}
	err    error // of Serve, once ended is closed
}

// StartNode serves the node of a conf file, on the address that it names.
func StartNode(conf, swiftConf string) (*Node, error) {
	swift, err := policy.Load(swiftConf)
	if err != nil {
		return nil, err
	}
	c, err := server.ReadConfig(conf)
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", net.JoinHostPort(c.BindIP, strconv.Itoa(c.BindPort)))
	if err != nil {
		return nil, fmt.Errorf("cannot serve the node of %s: %w", conf, err)
	}
	return serve(conf, swift, l)
}

// serve serves the node on a listener, which is the node's from here on.
func serve(conf string, swift *policy.Swift, l net.Listener) (*Node, error) {
	s, _, done, err := server.Open(conf, swift)
	if err != nil {
		l.Close()
		return nil, err
	}
	n := &Node{server: s, done: done, ended: make(chan struct{})}
	go func() {
		defer close(n.ended)
		n.err = s.Serve(l)
	}()
	return n, nil
}

// Close ends the server and all that it is doing. The error is why it had stopped before.
func (n *Node) Close() error {
	n.server.Close()
	<-n.ended
	n.done()
	return n.err
}
