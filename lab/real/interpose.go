package real

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
)

// Aside is an object server that was moved aside.
type Aside struct {
	Addr     string // where the ring says that it is, and where somebody else may listen now
	Upstream string // where it listens now
}

// asidePort is beside a server's own; no server of the lab listens there.
func asidePort(port int) int { return port + 1 }

// Interpose starts the servers of that kind of all nodes anew at other ports, so that the caller can listen at the
// addresses in the ring and pass on to them what he likes. Their confs stay as they are: daemons find their devices by
// them. With argv, that program is started in their place.
func (c *Cluster) Interpose(ctx context.Context, kind Kind, argv ...string) (map[int]Aside, error) {
	aside := map[int]Aside{}
	err := c.again(ctx, func(node int) (*server, error) {
		s := c.objectServer(node, kind)
		own, at := c.confAndPort(node, kind)
		conf, err := os.ReadFile(own)
		if err != nil {
			return nil, err
		}
		port := func(n int) []byte { return fmt.Appendf(nil, "bind_port = %d\n", n) }
		moved := bytes.Replace(conf, port(at), port(asidePort(at)), 1)
		path := filepath.Join(c.etc(), string(kind)+"-aside", fmt.Sprintf("%d.conf", node))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, moved, 0o644); err != nil {
			return nil, err
		}
		a := Aside{Addr: s.address, Upstream: net.JoinHostPort(nodeIP(node), strconv.Itoa(asidePort(at)))}
		s.address, aside[node] = a.Upstream, a
		if len(argv) > 0 {
			s.argv = slices.Clone(argv)
		} else {
			s.argv = s.argv[:1]
		}
		s.argv = append(s.argv, path)
		return s, nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot move the servers aside: %w", err)
	}
	return aside, nil
}

// Withdraw undoes Interpose: Swift's servers are in their places. Whoever listened there has to have stopped.
func (c *Cluster) Withdraw(ctx context.Context, kind Kind) error {
	err := c.again(ctx, func(node int) (*server, error) { return c.objectServer(node, kind), nil })
	if err != nil {
		return fmt.Errorf("cannot put the servers back in their places: %w", err)
	}
	return nil
}

// again replaces a server of every node by another and waits until these answer.
func (c *Cluster) again(ctx context.Context, other func(node int) (*server, error)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.stopped {
		return errors.New("the lab is stopped")
	}
	var list []*server
	var wg sync.WaitGroup
	for _, node := range c.Nodes() {
		s, err := other(node)
		if err != nil {
			return err
		}
		wg.Go(c.servers[s.name].stop)
		list = append(list, s)
	}
	wg.Wait()
	for _, s := range list {
		c.add(s)
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	var swifts []*server
	for _, s := range list {
		if strings.HasPrefix(s.argv[0], "/usr/bin/swift-") {
			swifts = append(swifts, s)
		} else if err := s.start(); err != nil {
			return err
		}
	}
	if len(swifts) > 0 {
		if err := startTogether(ctx, swifts); err != nil {
			return err
		}
	}
	for _, s := range list {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}
