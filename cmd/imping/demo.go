package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"imping/codec"
	"imping/lab/embedded"
	"imping/lab/scenario"
)

// demoOptions are the flags of the demo.
type demoOptions struct {
	nodes, devices   int
	policies         []string
	objects, losses  int
	size             string
	dir              string
	keep, json       bool
	corrupt          bool
	schemes          []codec.Scheme // of policies
	bytes            int64          // of size; 0: as they come
	archives, stored int64          // how many archives, and about how many bytes of them, are going to be stored
}

func demoCommand() *cobra.Command {
	var o demoOptions
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "wipe a disk of a cluster in this process, rebuild it, compare every byte",
		Long: `Serves a cluster of nodes from a temporary folder (imping's own servers, on addresses
of the loopback; neither root nor Swift is needed), stores objects over erasure-coded
policies, records the SHA-256 of every file of a device, wipes that device, makes a
reconstruction pass on every node, and lets a separate process compare. It ends with
"rebuilt N of N fragment archives, all byte-identical", or fails.

Without --size, objects are up to 256 KiB long, at random, and each policy has eleven
more of sizes and fates that matter: empty, of a byte, of a segment and a byte more or
less, of 5 MiB; overwritten, deleted, posted to, expiring, with foreign names.

Exit status: 0 all was rebuilt, 1 it was not, or could not be tried.`,
		Example: `  imping demo
  imping demo --losses 3 --policy "isa_l_rs_vand 10+4"
  imping demo --policy "jerasure_rs_cauchy 8+3, flat_xor_hd_3 10+5" --nodes 15 --devices 1
  imping demo --objects 64 --size 16MiB --policy "isa_l_rs_vand 10+4"   # how fast?
  imping demo --json > demo.json
  imping demo --corrupt-one   # flips a rebuilt byte before the comparison: must fail`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.check(); err != nil {
				return err
			}
			ctx, stop := signal.NotifyContext(cmd.Context(), os.Interrupt, syscall.SIGTERM)
			defer stop()
			err := demo(ctx, &o)
			if ctx.Err() != nil {
				return errors.New("the demo was ended early by a signal")
			}
			return err
		},
	}
	f := cmd.Flags()
	f.IntVar(&o.nodes, "nodes", 7, "nodes of the cluster")
	f.IntVar(&o.devices, "devices", 2, "devices of each node")
	f.StringArrayVar(&o.policies, "policy", []string{"isa_l_rs_vand 10+4", "liberasurecode_rs_vand 10+4", "jerasure_rs_cauchy 8+4", "flat_xor_hd_3 5+5"},
		"policies, as the scheme of each: may be given several times, and hold several with commas between")
	f.IntVar(&o.objects, "objects", 60, "objects of each policy")
	f.StringVar(&o.size, "size", "", "size of every object, such as 16MiB")
	f.IntVar(&o.losses, "losses", 1, "devices that are lost at once")
	f.StringVar(&o.dir, "dir", "", "where the cluster's folder is made (default $TMPDIR, else /tmp)")
	f.BoolVar(&o.keep, "keep", false, "leave the cluster's folder")
	f.BoolVar(&o.json, "json", false, "print what was measured as JSON; the tale goes to standard error")
	f.BoolVar(&o.corrupt, "corrupt-one", false, "flip one rebuilt byte before the comparison, which then must fail")
	cmd.AddCommand(&cobra.Command{
		Use: "compare SNAPSHOT..", Hidden: true, Args: cobra.MinimumNArgs(1),
		Short: "compare devices with snapshots that the demo wrote",
		RunE:  func(_ *cobra.Command, args []string) error { return demoCompare(args, os.Stdout) },
	})
	return cmd
}

var schemePattern = regexp.MustCompile(`^(\w+)\s+(\d{1,3})\+(\d{1,3})$`)

// parseSchemes reads the values of a flag, each of which may hold several schemes with commas between.
func parseSchemes(flag string, given []string) (schemes []codec.Scheme, err error) {
	for _, list := range given {
		for text := range strings.SplitSeq(list, ",") {
			text = strings.TrimSpace(text)
			m := schemePattern.FindStringSubmatch(text)
			if m == nil {
				return nil, fmt.Errorf("--%s %q: not a scheme such as %q", flag, text, "isa_l_rs_vand 10+4")
			}
			k, _ := strconv.Atoi(m[2])
			parity, _ := strconv.Atoi(m[3])
			s := codec.Scheme{Type: m[1], K: k, M: parity}
			if _, err := codec.New(s); err != nil {
				if !slices.Contains(codec.Types(), s.Type) {
					err = fmt.Errorf("%w (types are %s)", err, strings.Join(codec.Types(), ", "))
				}
				return nil, fmt.Errorf("--%s %q: %w", flag, text, err)
			}
			if slices.Contains(schemes, s) {
				return nil, fmt.Errorf("--%s %q is given twice", flag, text)
			}
			schemes = append(schemes, s)
		}
	}
	return schemes, nil
}

// check finds out what is wrong with the flags before anything is made.
func (o *demoOptions) check() error {
	var err error
	if o.schemes, err = parseSchemes("policy", o.policies); err != nil {
		return err
	}
	switch {
	case o.nodes < 1 || o.nodes > 200:
		return fmt.Errorf("--nodes %d: 1 to 200 can be", o.nodes)
	case o.devices < 1 || o.devices > 100:
		return fmt.Errorf("--devices %d: a node can have 1 to 100", o.devices)
	case o.objects < 1 || o.objects > 10_000_000:
		return fmt.Errorf("--objects %d: 1 to 10000000 can be", o.objects)
	case o.losses < 1:
		return fmt.Errorf("--losses %d: without a loss there is nothing to rebuild", o.losses)
	}
	for _, s := range o.schemes {
		if have := o.nodes * o.devices; s.K+s.M > have {
			return fmt.Errorf("%s puts the %d archives of an object on as many devices, and %d nodes of %d devices have %d: raise --nodes or --devices",
				s, s.K+s.M, o.nodes, o.devices, have)
		}
		if o.losses > s.M {
			return fmt.Errorf("--losses %d: %s survives the loss of %d at most", o.losses, s, s.M)
		}
	}
	if o.size != "" {
		var err error
		if o.bytes, err = parseSize(o.size); err != nil {
			return fmt.Errorf("--size %q: %w", o.size, err)
		}
		if o.bytes > 5<<30 {
			return fmt.Errorf("--size %s: the largest object that Swift takes is 5GiB", o.size)
		}
	}
	for _, s := range o.schemes {
		code, _ := codec.New(s)
		count, each := int64(o.objects), o.bytes
		if each == 0 {
			each = 128 << 10
		}
		o.archives += count * int64(s.K+s.M)
		// 4 KiB for the metadata and the folders of a small file.
		o.stored += count * int64(s.K+s.M) * (code.ArchiveSize(each, 1<<20) + 4<<10)
	}
	return nil
}

// clusterOptions are those of the cluster, in a folder.
func (o *demoOptions) clusterOptions(root string) embedded.Options {
	e := embedded.Options{Root: root, Nodes: o.nodes, DevicesPerNode: o.devices, LogLevel: "WARNING"}
	for _, s := range o.schemes {
		name := fmt.Sprintf("%s-%d-%d", strings.ReplaceAll(s.Type, "_", "-"), s.K, s.M)
		e.Policies = append(e.Policies, embedded.Policy{Name: name, Scheme: s})
	}
	return e
}

// loadOptions say which objects are stored.
func (o *demoOptions) loadOptions(victim string) scenario.LoadOptions {
	l := scenario.LoadOptions{Seed: 1, Victim: victim, Random: o.objects}
	if o.bytes > 0 {
		l.Sizes, l.Kinds = []int64{}, []scenario.Kind{}
		l.RandomMin, l.RandomMax = o.bytes, o.bytes
	}
	return l
}

// demoCompare is the separate process: it knows nothing but the snapshots and the disks.
func demoCompare(records []string, out io.Writer) error {
	var same, archives int
	var wrong []error
	for _, record := range records {
		b, err := os.ReadFile(record)
		if err != nil {
			return err
		}
		var before scenario.Snapshot
		if err := json.Unmarshal(b, &before); err != nil {
			return fmt.Errorf("%s: %w", record, err)
		}
		after, err := before.Retake()
		if err != nil {
			return err
		}
		report := scenario.Compare(&before, after)
		if !report.OK() {
			wrong = append(wrong, fmt.Errorf("device %s: %s", before.Device, report))
		}
		same, archives = same+report.Same, archives+report.Archives
	}
	if len(wrong) > 0 {
		return errors.Join(wrong...)
	}
	fmt.Fprintf(out, "rebuilt %d of %d fragment archives, all byte-identical\n", same, archives)
	return nil
}
