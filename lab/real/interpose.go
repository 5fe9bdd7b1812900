package real

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Aside is a replication server that was moved aside.
type Aside struct {
	Addr     string // where the ring says that it is, and where somebody else may listen now
	Upstream string // where it listens now
}

// asidePort is beside replicationPort; no server of the lab listens there.
func asidePort(node int) int { return replicationPort(node) + 1 }

// Interpose starts the replication servers of all nodes anew at other ports, so that the
// caller can listen at the addresses in the ring and pass on to them what he likes. Their
// confs stay as they are: daemons find their devices by them.
func (c *Cluster) Interpose(ctx context.Context) (map[int]Aside, error) {
	aside := map[int]Aside{}
	err := c.again(ctx, func(node int) (*server, error) {
		conf, err := os.ReadFile(c.ReplicationConf(node))
		if err != nil {
			return nil, err
		}
		s := c.objectServer(node, ReplicationServer)
		port := func(n int) []byte { return fmt.Appendf(nil, "bind_port = %d\n", n) }
		moved := bytes.Replace(conf, port(replicationPort(node)), port(asidePort(node)), 1)
		path := filepath.Join(c.etc(), "object-aside", fmt.Sprintf("%d.conf", node))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return nil, err
		}
		if err := os.WriteFile(path, moved, 0o644); err != nil {
			return nil, err
		}
		a := Aside{Addr: s.address, Upstream: net.JoinHostPort(nodeIP(node), strconv.Itoa(asidePort(node)))}
		s.argv[1], s.address, aside[node] = path, a.Upstream, a
		return s, nil
	})
	if err != nil {
		return nil, fmt.Errorf("cannot move the replication servers aside: %w", err)
	}
	return aside, nil
}

// Withdraw undoes Interpose. Whoever listened at the servers' addresses has to have
// stopped.
func (c *Cluster) Withdraw(ctx context.Context) error {
	err := c.again(ctx, func(node int) (*server, error) { return c.objectServer(node, ReplicationServer), nil })
	if err != nil {
		return fmt.Errorf("cannot put the replication servers back in their places: %w", err)
	}
	return nil
}

// again replaces every node's replication server by another and waits until these answer.
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
	if err := startTogether(ctx, list); err != nil {
		return err
	}
	for _, s := range list {
		if err := s.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}
