package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"syscall"

	"github.com/vmware/govmomi/vim25/types"
)

// A chain is a disk's descriptors as datastore paths, from the one the guest writes to down to the base. Each file of
// a chain but the first is frozen: nothing here writes to it except the folding of a removed snapshot.

var deltaSuffix = regexp.MustCompile(`(-\d{6})?\.vmdk$`)

type backingInfo = types.VirtualDiskFlatVer2BackingInfo

func linksOf(top *backingInfo) (names []string) {
	for b := top; b != nil; b = b.Parent {
		names = append(names, b.FileName)
	}
	return names
}

// createDelta makes an empty delta on top of the disk `parent` and returns its name.
func createDelta(parent string) (string, error) {
	below, err := readDescriptor(localPath(parent))
	if err != nil {
		return "", err
	}
	numbered := freeNumber(deltaSuffix.ReplaceAllString(parent, ""))
	file := localPath(numbered + ".vmdk")
	d := &descriptor{
		cid: below.cid, parentCID: below.cid, createType: "vmfsSparse", parentHint: baseName(parent),
		sectors: below.sectors, extentKind: "VMFSSPARSE", extentFile: baseName(numbered) + "-delta.vmdk",
	}
	if err := createCOWD(d.extentPath(file), d.sectors); err != nil {
		return "", err
	}
	return numbered + ".vmdk", d.write(file)
}

// freeNumber is the first of STEM-000001, STEM-000002... that no disk has.
func freeNumber(stem string) string {
	for n := 1; ; n++ {
		numbered := fmt.Sprintf("%s-%06d", stem, n)
		if _, err := os.Stat(localPath(numbered + ".vmdk")); errors.Is(err, os.ErrNotExist) {
			return numbered
		}
	}
}

// removeLink deletes one disk's descriptor and extent.
func removeLink(name string) {
	file := localPath(name)
	if d, err := readDescriptor(file); err == nil {
		os.Remove(d.extentPath(file))
	}
	os.Remove(file)
}

// readChain reads a range, of whole sectors, as a guest whose disk this chain is would see it.
func readChain(names []string, offset, length int64) ([]byte, error) {
	buf := make([]byte, length)
	for i := len(names) - 1; i >= 0; i-- {
		file := localPath(names[i])
		d, err := readDescriptor(file)
		if err != nil {
			return nil, err
		}
		if d.isDelta() {
			err = withCOWD(d.extentPath(file), os.O_RDONLY, func(c *cowd) error { return c.overlay(buf, offset) })
		} else {
			err = readFlat(d.extentPath(file), buf, offset)
		}
		if err != nil {
			return nil, err
		}
	}
	return buf, nil
}

func readFlat(file string, buf []byte, offset int64) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = f.ReadAt(buf, offset); err == io.EOF {
		err = fmt.Errorf("%s ends before %d", file, offset+int64(len(buf)))
	}
	return err
}

func withCOWD(file string, flags int, use func(*cowd) error) error {
	c, err := openCOWD(file, flags)
	if err != nil {
		return err
	}
	defer c.close()
	return use(c)
}

// writeLink stores whole sectors in one disk file, whatever its kind.
func writeLink(name string, data []byte, offset int64) error {
	file := localPath(name)
	d, err := readDescriptor(file)
	if err != nil {
		return err
	}
	if d.isDelta() {
		return withCOWD(d.extentPath(file), os.O_RDWR, func(c *cowd) error { return c.write(data, offset) })
	}
	f, err := os.OpenFile(d.extentPath(file), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteAt(data, offset)
	return err
}

// guestWrite changes the disk as its guest would: in the top of the chain only, and with a new content ID.
func guestWrite(names []string, data []byte, offset int64) error {
	first := offset / sector * sector
	last := (offset + int64(len(data)) + sector - 1) / sector * sector
	whole, err := readChain(names, first, last-first)
	if err != nil {
		return err
	}
	copy(whole[offset-first:], data)
	if err := writeLink(names[0], whole, first); err != nil {
		return err
	}
	return changeDescriptor(names[0], func(d *descriptor) { d.cid = newCID() })
}

func changeDescriptor(name string, change func(*descriptor)) error {
	d, err := readDescriptor(localPath(name))
	if err != nil {
		return err
	}
	change(d)
	return d.write(localPath(name))
}

// fold merges a delta into its parent and deletes it. The parent then has the delta's content, so it takes over its
// content ID as well: what lay on the delta, and names that ID as its parent's, stays valid.
func fold(delta, parent string) error {
	file := localPath(delta)
	d, err := readDescriptor(file)
	if err != nil {
		return err
	}
	err = withCOWD(d.extentPath(file), os.O_RDONLY, func(c *cowd) error {
		held, err := c.allocated()
		if err != nil {
			return err
		}
		for _, one := range held {
			buf := make([]byte, one.length)
			if err := c.overlay(buf, one.start); err != nil {
				return err
			}
			if err := writeLink(parent, buf, one.start); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	if err := changeDescriptor(parent, func(p *descriptor) { p.cid = d.cid }); err != nil {
		return err
	}
	removeLink(delta)
	return nil
}

// allocatedIn lists what the disk files of a chain hold, in no order: what changeId "*" asks for.
func allocatedIn(names []string) (held []span, err error) {
	for _, name := range names {
		file := localPath(name)
		d, err := readDescriptor(file)
		if err != nil {
			return nil, err
		}
		if d.isDelta() {
			err = withCOWD(d.extentPath(file), os.O_RDONLY, func(c *cowd) error {
				some, err := c.allocated()
				held = append(held, some...)
				return err
			})
			if err != nil {
				return nil, err
			}
		} else {
			held = append(held, dataSpans(d.extentPath(file))...)
		}
	}
	return held, nil
}

// dataSpans lists the allocated ranges of a sparse file.
func dataSpans(file string) (held []span) {
	const seekData, seekHole = 3, 4
	f, err := os.Open(file)
	if err != nil {
		return nil
	}
	defer f.Close()
	for offset := int64(0); ; {
		start, err := syscall.Seek(int(f.Fd()), offset, seekData)
		if err != nil {
			return held
		}
		offset, err = syscall.Seek(int(f.Fd()), start, seekHole)
		if err != nil {
			return held
		}
		held = append(held, span{start, offset - start})
	}
}
